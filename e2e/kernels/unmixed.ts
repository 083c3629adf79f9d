// SPDX-License-Identifier: Apache-2.0
/**
 * On a kernel whose JIT cannot mix tail calls with BPF-to-BPF calls: one program is no chain, and runs. Of several only the last may
 * have functions, since it goes on to nobody. An ADD of others fails with the sentence that says why, and leaves nothing; so
 * says doctor.
 */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { probeObject } from "../../plugin/cli/checks/object.ts";
import { scratch } from "../lib/scratch.ts";
import { executable, failure, result, silence } from "../protocol/executable.ts";
import { annotated, pins, pod } from "../protocol/pod.ts";

test("ADD says which kernel it needs, with code 105, and leaves nothing behind", () => {
  using world = scratch();
  const place = pod(world);
  const several = annotated({ "remora.io/programs": "acl,count" });
  const answer = failure(place.call("ADD", several));
  assert.is(answer.code, 105, answer.msg);
  assert.match(
    answer.msg,
    /^pod shop\/web: acl .* a program with functions before another one, .* mix tail calls with BPF-to-BPF calls, .* on arm64 since 6\.0; this node runs Linux 5\.10/,
  );
  assert.is(place.attached(), 0);
  assert.equal(pins(place.bpffs), []);
  silence(place.call("DEL", several));
});

test("a chain runs to its end where only the last program has functions; no trace of it, which needs them", () => {
  using world = scratch();
  const place = pod(world);
  // Without functions, and no compiler is needed for it here.
  for (const name of ["first", "second"]) writeFileSync(join(place.programs, `${name}.bpf.o`), probeObject());
  const remora = (verb: string, ...options: string[]) =>
    spawnSync(executable, [verb, ...options, "--bpffs", place.bpffs], { encoding: "utf8", timeout: 60_000 });
  const pings = (): boolean =>
    spawnSync("nsenter", [`--net=${place.netns}`, "ping", "-c", "2", "-i", "0.2", "-w", "2", "10.0.0.1"]).status === 0;

  const several = annotated({ "remora.io/programs": "first,second,count" });
  result(place.call("ADD", several));
  assert.ok(pings());
  silence(place.call("CHECK", several));
  const seen = (): Record<string, { program: string; packets: number }[]> =>
    JSON.parse(remora("status", "--json").stdout).attachments[0];
  for (const direction of ["ingress", "egress"]) {
    const chain = seen()[direction] ?? [];
    assert.equal(
      chain.map(({ program }) => program),
      ["first", "second", "count"],
    );
    for (const { program, packets } of chain) assert.ok(packets >= 2, `${program} has seen ${packets}`);
  }

  const traced = remora("trace", "shop/web");
  assert.is(traced.status, 1, traced.stdout);
  assert.match(traced.stderr, /^remora trace: second .* a trace of several mix tail calls with BPF-to-BPF calls/m);
  const before = seen().ingress?.[2]?.packets ?? 0;
  assert.ok(pings(), "after the trace that was refused");
  assert.ok((seen().ingress?.[2]?.packets ?? 0) >= before + 2);
  silence(place.call("DEL", several));

  const guarded = annotated({ "remora.io/programs": "first,acl", "acl.remora.io/rules": "deny icmp any" });
  result(place.call("ADD", guarded));
  assert.not.ok(pings(), "acl, the last, denies ICMP");
  silence(place.call("DEL", guarded));
  assert.ok(pings());
  assert.equal(pins(place.bpffs), []);
});

test("doctor says so before", () => {
  using world = scratch();
  const { status, stdout } = spawnSync(executable, ["doctor", "--json", "--bpffs", world.bpffs()], {
    encoding: "utf8",
  });
  assert.is(status, 1);
  assert.match(
    stdout,
    /chains of several programs need Linux 6\.0 or later on aarch64; before, only the last may have functions/,
  );
});

test.run();
