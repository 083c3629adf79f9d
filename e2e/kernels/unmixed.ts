// SPDX-License-Identifier: Apache-2.0
/**
 * On a kernel whose JIT cannot mix tail calls with BPF-to-BPF calls: one program is no chain, and runs. An ADD of several fails
 * with the sentence that says why, and leaves nothing; so says doctor.
 */
import { spawnSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { executable, failure, silence } from "../protocol/executable.ts";
import { annotated, pins, pod } from "../protocol/pod.ts";

test("ADD says which kernel it needs, with code 105, and leaves nothing behind", () => {
  using world = scratch();
  const place = pod(world);
  const several = annotated({ "remora.io/programs": "acl,count" });
  const answer = failure(place.call("ADD", several));
  assert.is(answer.code, 105, answer.msg);
  assert.match(
    answer.msg,
    /mixes tail calls with BPF-to-BPF calls, .* on arm64 since 6\.0; this node runs Linux 5\.10/,
  );
  assert.is(place.attached(), 0);
  assert.equal(pins(place.bpffs), []);
  silence(place.call("DEL", several));
});

test("doctor says so before", () => {
  using world = scratch();
  const { status, stdout } = spawnSync(executable, ["doctor", "--bpffs", world.bpffs()], { encoding: "utf8" });
  assert.is(status, 1);
  assert.match(stdout, /chains of several programs need Linux 6\.0 or later on aarch64/);
});

test.run();
