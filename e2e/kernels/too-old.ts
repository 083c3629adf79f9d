// SPDX-License-Identifier: Apache-2.0
/** On a kernel without TCX: an ADD that insists on it fails with the sentence that says so, and leaves nothing; the rest is as ever. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "../lib/scratch.ts";
import { failure, result, silence } from "../protocol/executable.ts";
import { annotated, pins, pod } from "../protocol/pod.ts";

/** Programs, maps and links that the kernel holds. */
const held = (): unknown[] =>
  ["prog", "map", "link"].flatMap(
    (kind) => (JSON.parse(run("bpftool", "-j", kind, "show") || "[]") as unknown[]) ?? [],
  );

test("ADD says which kernel it needs, with code 105, and leaves nothing behind", () => {
  using world = scratch();
  const place = pod(world);
  const before = held().length;
  for (const programs of ["count", "acl,count"]) {
    const answer = failure(place.call("ADD", { ...annotated({ "remora.io/programs": programs }), hook: "tcx" }));
    assert.is(answer.code, 105, answer.msg);
    assert.match(answer.msg, /TCX links, which came with Linux 6\.6; this node runs Linux \d+\.\d+/);
    assert.is(place.attached(), 0);
    assert.equal(pins(place.bpffs), []);
  }
  assert.is(held().length, before);
});

test("DEL, STATUS and an ADD of nothing go as anywhere", () => {
  using world = scratch();
  const place = pod(world);
  assert.equal(result(place.call("ADD")), place.configuration.prevResult);
  silence(place.call("CHECK"));
  silence(place.call("STATUS"));
  silence(place.call("DEL"));
  silence(place.call("DEL", { prevResult: undefined }, { CNI_NETNS: "" }));
  assert.equal(pins(place.bpffs), []);
});

test.run();
