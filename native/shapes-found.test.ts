// SPDX-License-Identifier: Apache-2.0
/**
 * Shapes of programs found in public projects: sections, contexts, return types, maps, globals, what stands beside them in
 * one object. Each, unmodified, between two programs of ours. docs/compatibility.md has the projects.
 */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ethernet, ipv4, tcp } from "../bpf/packets.ts";
import { scratch } from "../e2e/lib/scratch.ts";
import { type Ending, KernelError } from "../plugin/kernel/port.ts";
import { Chain, fixture, kernel, type Member, u32, verdict } from "./chain.ts";

type World = ReturnType<typeof scratch>;

const packet = ethernet(ipv4({}, tcp()));
const ours = (world: World, id: number): Member => ({
  object: fixture(world, "verdict"),
  entry: "give_verdict",
  parameters: { id: u32(id) },
});

/** A shape's functions, and what each makes of a packet: it goes on, or ends as this. */
type Shape = [name: string, entries: Record<string, "goes on" | [verdict: number, ending: Ending]>];
const shapes: Shape[] = [
  [
    "shape-sections",
    {
      plain_tc: "goes on",
      unsigned_verdict: "goes on",
      long_verdict: "goes on",
      untyped_context: "goes on",
      enum_verdict: "goes on",
      tcx_pass: "goes on",
      for_netkit: "goes on",
      as_an_action: "goes on",
      drops: [verdict.shot, "shot"],
      redirects: [7, "redirect"],
      steals: [4, "stolen"],
      reclassifies: [1, "reclassify"],
      with_a_verdict_of_nobody: [99, "other"],
    },
  ],
  ["shape-maps", { account: "goes on" }],
  ["shape-globals", { remember: "goes on" }],
  ["shape-core", { look: "goes on" }],
  ["shape-beside", { monitor: "goes on" }],
  ["shape-dispatcher", { dispatch: "goes on", jump: "goes on" }],
  ["shape-packets", { writes: "goes on", reads_the_old_way: "goes on", looks_up: "goes on", resizes: "goes on" }],
];

for (const [name, entries] of shapes)
  test(`${name}: ${Object.keys(entries).join(", ")} between two of ours`, () => {
    using world = scratch();
    const object = fixture(world, name);
    const [first, last] = [ours(world, 1), ours(world, 9)];
    for (const [entry, expected] of Object.entries(entries)) {
      using chain = new Chain([first, { object, entry }, last]);
      const ends = expected !== "goes on";
      assert.equal(chain.run(packet), { verdict: ends ? expected[0] : -1, mark: ends ? 15 : 159 }, entry);
      assert.equal(chain.counted(1).endings, ends ? { [expected[1]]: 1 } : {}, entry);
      assert.equal(chain.counted(2).endings, {}, entry);
      assert.is(chain.counted(0).headPackets, 1, entry);
    }
  });

test("maps that asked for a pin of any kind stay unpinned, with the sizes that were left out", () => {
  using world = scratch();
  const object = fixture(world, "shape-maps");
  const facts = new Map(kernel.inspectObject(object).maps.map((map) => [map.name, map]));
  for (const name of ["samples", "next"]) {
    const map = facts.get(name);
    assert.equal([map?.keySize, map?.valueSize], [4, 4], name);
  }
  assert.is(facts.get("flows")?.pinned, true);
  assert.is(facts.get("shared_by_its_own_loader")?.pinned, false, "100 is no pinning of libbpf's");
  assert.is(facts.get("shared_by_its_own_loader")?.maxEntries, 128);
  using chain = new Chain([{ object, entry: "account" }]);
  // `first` lives in a slot of `tables`, and with it.
  const own = chain.stages[0]?.maps.flatMap(({ name, internal }) => (internal ? [] : [name]));
  assert.equal(own?.sort(), [...facts.keys()].filter((name) => name !== "first" && !name.startsWith(".")).sort());
  assert.is(own?.length, 8);
});

test("tables that only the probes beside it use are no part of a program", () => {
  using world = scratch();
  const object = fixture(world, "shape-beside");
  assert.ok(kernel.inspectObject(object).maps.some(({ name }) => name === "stacks"));
  using chain = new Chain([{ object, entry: "monitor" }]);
  assert.equal(chain.stages[0]?.maps, []);
});

test("a slot that user space fills runs what it was given, and its verdict counts", () => {
  using world = scratch();
  const object = fixture(world, "shape-dispatcher");
  using chain = new Chain([ours(world, 1), { object, entry: "jump" }, ours(world, 9)]);
  const jumps = chain.stages[1]?.maps.find(({ name }) => name === "jumps");
  using filler = new Chain([{ ...ours(world, 7), parameters: { id: u32(7), verdict: u32(verdict.shot) } }]);
  assert.is(chain.run(packet).mark, 159);
  kernel.updateMap(jumps?.fd as number, u32(3), u32(filler.stages[0]?.program as number));
  assert.equal(chain.run(packet), { verdict: verdict.shot, mark: 157 });
  assert.equal(chain.counted(1).endings, { shot: 1 });
});

test("a section that libbpf does not know is TC's, but where its function takes another context", () => {
  using world = scratch();
  const types = (name: string) =>
    Object.fromEntries(
      kernel.inspectObject(fixture(world, name)).programs.map((program) => [program.name, program.type]),
    );
  const beside = types("shape-beside");
  assert.is(beside.early, "xdp");
  assert.is(beside.probe_of_its_own_loader, "kprobe");
  assert.is(beside.sockets, "sock_ops");
  assert.is(beside.monitor, "sched_cls");
  for (const type of Object.values(types("shape-sections"))) assert.is(type, "sched_cls");
  // Without BTF the name alone is left to tell.
  const text = `__attribute__((section("xdp_early"), used)) int early(void *ctx) { return 2; }
    __attribute__((section("tc-late"), used)) int late(void *ctx) { return 0; }`;
  const object = readFileSync(world.compile({ text }, { flags: ["-g0"] }));
  assert.equal(
    kernel.inspectObject(object).programs.map(({ type }) => type),
    ["xdp", "sched_cls"],
  );
});

test("what cannot stand in a chain is refused by name", () => {
  using world = scratch();
  const failed = (name: string, entry: string): string => {
    try {
      new Chain([{ object: fixture(world, name), entry }])[Symbol.dispose]();
    } catch (error) {
      if (error instanceof KernelError) return error.message;
      throw error;
    }
    return "it loaded";
  };
  assert.match(failed("shape-beside", "early"), /"early" is of type xdp .*takes only TC programs/);
  assert.match(failed("shape-dispatcher", "extension"), /"extension" is of type ext .*takes only TC programs/);
  assert.match(
    failed("shape-unsized", "aggregate"),
    /leaves the size of map "aggregated" \(lru_hash\) to a loader of its own: its max_entries is 0/,
  );
  assert.is(failed("shape-unsized", "samples_alone"), "it loaded");
  assert.match(
    failed("shape-core", "trusting"),
    /a type or field that it reads \(CO-RE\) is not in this kernel: struct sk_buff___later\.field_of_no_kernel/,
  );
});

test.run();
