// SPDX-License-Identifier: Apache-2.0
/** Every entry of the library loads, as built and installed: alone, and all of a direction in one chain. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Chain, kernel } from "../../native/chain.ts";
import { readParameters, setParameter } from "../../plugin/catalog/parameters.ts";
import { programs } from "../../scripts/make/programs.ts";

const folder = resolve(import.meta.dirname, "../../dist/programs");
const members = programs.flatMap((name) => {
  const object = readFileSync(join(folder, `${name}.bpf.o`));
  return kernel.inspectObject(object).programs.map((program) => ({ object, entry: program.name }));
});

for (const member of members)
  test(`${member.entry} loads`, () => {
    using chain = new Chain([member]);
    assert.is(chain.stages.length, 1);
  });

test("acl with its deny list, and without the map of it", () => {
  const object = readFileSync(join(folder, "acl.bpf.o"));
  for (const [asked, without] of [
    [1, []],
    [0, ["denied"]],
  ] as const) {
    const parameters = { deny_list: Buffer.from([asked]) };
    using chain = new Chain([{ object, entry: "acl_ingress", parameters, without: [...without] }]);
    assert.is(
      chain.stages[0]?.maps.some(({ name }) => name === "denied"),
      asked === 1,
    );
    assert.is(chain.run(Buffer.alloc(64)).verdict, -1);
  }
});

/** What a parameter of 8 bytes holds. */
const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(value);
  return bytes;
};

test("rate-limit with both buckets, and marks", () => {
  const object = readFileSync(join(folder, "rate-limit.bpf.o"));
  const parameters = {
    rate: u64(1000n),
    packet_rate: u64(1n),
    packet_burst: u64(2n),
    mode: Buffer.from([2, 0, 0, 0]),
  };
  using chain = new Chain([{ object, entry: "rate_limit", parameters }]);
  assert.equal(
    [1, 2, 3].map(() => chain.run(Buffer.alloc(64)).verdict),
    [-1, -1, 2],
  );
});

test("mark-dscp with a code point, a priority and a mark", () => {
  const object = readFileSync(join(folder, "mark-dscp.bpf.o"));
  const parameters = {
    dscp: Buffer.from([46]),
    priority: u64(6n),
    mark: Buffer.from([0, 1, 0, 0]),
    mark_mask: Buffer.from([0, 255, 0, 0]),
  };
  for (const entry of ["mark_ingress", "mark_egress"]) {
    using chain = new Chain([{ object, entry, parameters }]);
    // The shortest IPv6 packet: no next header, and nothing behind it.
    const packet = Buffer.concat([Buffer.alloc(12), Buffer.from("86dd6000000000003b40", "hex"), Buffer.alloc(32)]);
    const result = kernel.testRun({ program: chain.stages[0]?.program ?? -1, packet });
    assert.is(result.verdict, -1);
    assert.is(result.packet.toString("hex", 14, 16), "6b80");
    assert.is(result.context.priority, 6);
    assert.is(result.context.mark, 0x100);
  }
});

// By default these do nothing, and the verifier removes what does.
const asked: Record<string, Record<string, string>> = {
  "conn-limit": { max: "1", max_per_remote: "1", new_per_second: "1", new_per_second_per_remote: "1" },
  fault: { drop: "1%", reset: "1%", corrupt: "1%", rules: "deny tcp any 80" },
};
for (const [name, params] of Object.entries(asked))
  test(`${name} with all that it can do`, () => {
    const object = readFileSync(join(folder, `${name}.bpf.o`));
    const info = kernel.inspectObject(object);
    const known = readParameters(name, info);
    const bytes = Object.entries(params).flatMap(([parameter, text]) => setParameter(known, parameter, text).bytes);
    const parameters = Object.fromEntries(bytes.map((each) => [each.name, each.bytes]));
    for (const { name: entry } of info.programs) {
      using chain = new Chain([{ object, entry, parameters }]);
      assert.is(chain.stages.length, 1);
    }
  });

test("all of them in one chain, but for the one that lets nothing through where it was told of no address", () => {
  using chain = new Chain(members.filter(({ entry }) => entry !== "guard"));
  assert.is(chain.run(Buffer.alloc(64)).verdict, -1);
});

test.run();
