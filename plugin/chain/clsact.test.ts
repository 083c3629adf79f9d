// SPDX-License-Identifier: Apache-2.0
/** Chains on the clsact qdisc, on the fake kernel: what a crash or an error leaves at any operation, and whose filters stay. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type RemoraError } from "../errors.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { type HookPlace, KernelError } from "../kernel/port.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { asRemoraError } from "./explain.ts";
import { bpffs, caught, id, input, machine as modern, netns, select } from "./fixture.ts";
import { chooseHook } from "./hook.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { isAsPlanned, replace } from "./replace.ts";
import { settle } from "./settle.ts";
import { listAttachments } from "./status.ts";

const pins = pinsOf(bpffs, id);
const hook = "clsact";

/** A kernel before TCX. */
function machine(): FakeKernel {
  const kernel = modern();
  kernel.withoutTcx = true;
  return kernel;
}

/** Both directions, shared maps, a map pinned by name, an inner PROG_ARRAY, a map of the node: something of everything. */
function firstPlan(kernel: FakeKernel): ChainPlan {
  const selected = [
    select(kernel, "plain", { maps: [{ name: "hits" }] }),
    select(kernel, "pair", { entry: { ingress: "from", egress: "to" }, maps: [{ name: "flows", pinned: true }] }),
    select(kernel, "l3af", { maps: [{ name: "next.map", type: "prog_array" }], directions: ["egress"] }),
    select(kernel, "guard", { maps: [{ name: "deny.list" }], change: { mapScopes: { "deny.list": "node" } } }),
  ];
  return plan(input(kernel, selected, { hook }));
}
function secondPlan(kernel: FakeKernel, generation = 2): ChainPlan {
  const selected = [
    select(kernel, "pair", { entry: { ingress: "from", egress: "to" }, maps: [{ name: "flows", pinned: true }] }),
    select(kernel, "plain", { maps: [{ name: "hits" }] }),
  ];
  return plan(input(kernel, selected, { hook, generation }));
}
const whole = {
  first: { ingress: "plain pair guard", egress: "plain pair l3af guard" },
  second: { ingress: "pair plain", egress: "pair plain" },
};

const add = (kernel: FakeKernel): void => attach(kernel, firstPlan(kernel));
const del = (kernel: FakeKernel): boolean => detach(kernel, bpffs, id);
function recordOf(kernel: FakeKernel): AttachmentRecord {
  const record = readRecord(kernel, pins);
  if (!record) throw new Error("no record");
  return record;
}
function change(kernel: FakeKernel): void {
  settle(kernel, pins);
  const old = recordOf(kernel);
  replace(kernel, secondPlan(kernel, old.generation + 1), old);
}

const names = (kernel: FakeKernel, direction: "ingress" | "egress"): string =>
  kernel
    .chains(direction)
    // A filter whose chain has lost its stages drops packets.
    .map((chain) => chain.map(({ name }) => name).join(" ") || "(emptied)")
    .join(" | ");
/** Which chain packets meet, in both directions, by the record as by the filters. */
function state(kernel: FakeKernel): "first" | "second" {
  const record = check(kernel, bpffs, id, netns);
  const is = record?.chains.ingress?.stages[0]?.entries[0]?.program === "plain" ? "first" : "second";
  for (const direction of ["ingress", "egress"] as const) assert.is(names(kernel, direction), whole[is][direction]);
  return is;
}

/** While something is done: there are never two filters of ours in a direction, nor one whose chain is not whole. */
function watched(kernel: FakeKernel, act: () => void): void {
  const wrong: string[] = [];
  kernel.interfere = (operation) => {
    for (const direction of ["ingress", "egress"] as const) {
      const found = names(kernel, direction);
      const allowed = ["", whole.first[direction], whole.second[direction]];
      if (!allowed.includes(found)) wrong.push(`${direction} is "${found}" at ${operation}`);
    }
  };
  try {
    act();
  } finally {
    kernel.interfere = undefined;
    assert.equal(wrong, []);
  }
}

const differs = (error: unknown, words: RegExp): void => {
  assert.is((error as RemoraError | undefined)?.code, code.attachmentDiffers, String(error));
  assert.match((error as Error).message, words);
};

function operationsOf(act: (kernel: FakeKernel) => void, prepare: (kernel: FakeKernel) => void = () => {}): string[] {
  const kernel = machine();
  prepare(kernel);
  const before = kernel.operations.length;
  watched(kernel, () => act(kernel));
  assert.is(kernel.openFds(), 0);
  return kernel.operations.slice(before);
}
/** Once for each operation of `act`: a kernel on which that one fails, or on which the process dies there. */
function* eachOf(
  act: (kernel: FakeKernel) => void,
  prepare: (kernel: FakeKernel) => void,
  fault: "fails" | "dies",
): Iterable<{ kernel: FakeKernel; error: unknown; at: string }> {
  const operations = operationsOf(act, prepare);
  for (const [index, operation] of operations.entries()) {
    const kernel = machine();
    prepare(kernel);
    if (fault === "fails") kernel.failAt(index + 1, "EIO");
    else kernel.crashAt(index + 1);
    const error = caught(() => watched(kernel, () => act(kernel)));
    if (fault === "dies") kernel.restart();
    else kernel.calm();
    if (error instanceof assert.Assertion) throw error;
    yield { kernel, error, at: `${index + 1}: ${operation}` };
  }
}
const nothing = (): void => {};

/** Somebody else's filter, with a program of his. */
function addForeignFilter(kernel: FakeKernel, place: HookPlace): void {
  const chain = kernel.createMap({ type: "prog_array", name: "theirs", keySize: 4, valueSize: 4, maxEntries: 1 });
  const counters = kernel.createMap({ type: "percpu_array", name: "c", keySize: 4, valueSize: 8, maxEntries: 1 });
  const { program } = kernel.loadStage({
    ...{ object: kernel.object("theirs"), name: "theirs", position: 0, length: 1, proceedOn: [], chain, counters },
    ...{ entries: [{ function: "handle", parameters: [] }], failurePolicy: "open", countHead: false, reuse: [] },
  });
  kernel.attachFilter({ ...place, program });
  for (const fd of [program, counters, chain]) kernel.close(fd);
}
const placeOf = (kernel: FakeKernel, direction: "ingress" | "egress"): HookPlace => ({
  netns,
  ifindex: kernel.findInterface(netns, id.ifname).ifindex,
  direction,
});

test("a filter in each direction, described by what is pinned; the qdisc goes with the last", () => {
  const kernel = machine();
  add(kernel);
  assert.is(state(kernel), "first");
  assert.is(kernel.openFds(), 0);
  assert.equal(
    kernel.files().filter((path) => /\/(link|filter)_/.test(path)),
    ["egress", "ingress"].map((direction) => `${pins.directory}/filter_${direction}`),
  );
  assert.is(listAttachments(kernel, bpffs)[0]?.hook, "clsact");
  change(kernel);
  assert.is(state(kernel), "second");
  assert.is(kernel.operations.filter((operation) => operation.startsWith("attachFilter")).length, 2);
  assert.is(kernel.operations.filter((operation) => operation === "replaceFilter").length, 2);
  assert.ok(del(kernel));
  assert.not(del(kernel));
  assert.equal(kernel.left(), []);
});

test("a change that leaves a direction without programs, and one that gives it some again", () => {
  const kernel = machine();
  add(kernel);
  for (const [generation, directions] of [
    [2, ["egress"]],
    [3, ["ingress"]],
    [4, ["ingress", "egress"]],
    [5, ["ingress"]],
  ] as const) {
    const next = plan(input(kernel, [select(kernel, "a", { directions: [...directions] })], { hook, generation }));
    replace(kernel, next, recordOf(kernel));
    check(kernel, bpffs, id, netns);
    for (const direction of ["ingress", "egress"] as const)
      assert.is(names(kernel, direction), (directions as readonly string[]).includes(direction) ? "a" : "");
  }
  del(kernel);
  assert.equal(kernel.left(), [], "also the qdisc, which was made for a filter that went long ago");
});

for (const [when, prepare] of [
  ["on a fresh node", nothing],
  ["where an earlier ADD is still attached", add],
] as const)
  test(`an ADD ${when} that fails at any operation leaves nothing, or what DEL removes`, () => {
    for (const { kernel, error, at } of eachOf(add, prepare, "fails")) {
      if (error === undefined) {
        assert.match(at, /close$/);
        state(kernel);
      } else if (prepare === nothing) assert.equal(kernel.left(), [], at);
      del(kernel);
      assert.equal(kernel.left(), [], at);
    }
  });

test("an ADD that fails once a filter hangs, and cannot take back all: no filter without its whole chain", () => {
  const operations = operationsOf(add);
  const hangs = operations.findIndex((operation) => operation.startsWith("attachFilter"));
  const gc = (kernel: FakeKernel): unknown => collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock });
  const nexts = [del, add, gc];
  let stuck = 0;
  for (let first = hangs + 1; first < operations.length; first++)
    for (let second = first + 1; ; second++) {
      const kernel = machine();
      kernel.failAt(first + 1, "EIO");
      kernel.failAt(second + 1, "EIO");
      caught(() => watched(kernel, () => add(kernel)));
      if (kernel.operations.length <= second) break;
      const at = [first, second].map((index) => `${index + 1}: ${kernel.operations[index]}`).join(", ");
      kernel.calm();
      const added = kernel.files().includes(pins.record);
      if (!added && kernel.files().some((path) => path.includes("/filter_"))) stuck++;
      const next = nexts[second % nexts.length] ?? del;
      watched(kernel, () => next(kernel));
      // All that failed of an ADD that is attached is a close.
      if (added && next === gc) state(kernel);
      if (next === add) state(kernel);
      if (added || next === add) del(kernel);
      assert.equal(kernel.left(), [], at);
    }
  assert.ok(stuck > operations.length - hangs, `${stuck} times a filter could not be taken off`);
});

for (const [then, mend] of [
  ["DEL", nothing],
  ["another ADD, then DEL", add],
  ["gc", (kernel: FakeKernel) => collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock })],
] as const)
  test(`an ADD killed at any operation is cleaned up by ${then}`, () => {
    for (const { kernel, at } of eachOf(add, nothing, "dies")) {
      mend(kernel);
      if (mend === add) assert.is(state(kernel), "first", at);
      else if (mend !== nothing && kernel.left().length > 0) assert.is(state(kernel), "first", at);
      del(kernel);
      assert.equal(kernel.left(), [], at);
    }
  });

for (const [then, mend] of [
  ["the next", del],
  ["gc", (kernel: FakeKernel) => collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock })],
] as const)
  for (const fault of ["fails", "dies"] as const)
    test(`what a DEL leaves that ${fault} at any operation is removed by ${then}`, () => {
      for (const { kernel, error, at } of eachOf(del, add, fault)) {
        if (fault === "fails" && error === undefined) assert.match(at, /close$/);
        if (mend !== del && kernel.files().includes(pins.record)) {
          // It had not begun.
          assert.is(state(kernel), "first", at);
          continue;
        }
        mend(kernel);
        assert.equal(kernel.left(), [], at);
      }
    });

test("a DEL that cannot take a filter off leaves its chain whole, and says so", () => {
  let stuck = 0;
  for (const { kernel, error, at } of eachOf(del, add, "fails")) {
    if (!at.includes("detachFilter")) continue;
    stuck++;
    assert.match((error as Error).message, /EIO/, at);
    assert.match(`${names(kernel, "ingress")}/${names(kernel, "egress")}`, /guard/, at);
    const [status] = listAttachments(kernel, bpffs);
    assert.match(status?.degraded[0]?.reason ?? "", /a DEL was interrupted/, at);
    assert.is(status?.hook, "clsact");
  }
  assert.ok(stuck === 2, `${stuck} operations`);
});

test("a DEL between any two operations of an ADD: nothing is left, or a whole chain", () => {
  for (const nth of operationsOf(add).keys()) {
    const kernel = machine();
    kernel.interfere = (_, number) => {
      if (number === nth + 1) del(kernel);
    };
    const error = caught(() => add(kernel));
    kernel.interfere = undefined;
    if (error === undefined) {
      if (check(kernel, bpffs, id, netns)) del(kernel);
    } else assert.is((error as RemoraError).code, code.unknownContainer, String(error));
    assert.equal(kernel.left(), [], `operation ${nth + 1}`);
  }
});

for (const [what, act] of [
  ["another DEL", del],
  ["a change", change],
] as const)
  test(`a DEL between any two operations of ${what}: nothing is left`, () => {
    for (const nth of operationsOf(act, add).keys()) {
      const kernel = machine();
      add(kernel);
      const before = kernel.operations.length;
      kernel.interfere = (_, number) => {
        if (number === before + nth + 1) del(kernel);
      };
      caught(() => act(kernel));
      kernel.interfere = undefined;
      // What a change has made anew meanwhile, the runtime's next DEL takes away.
      del(kernel);
      assert.equal(kernel.left(), [], `operation ${nth + 1}`);
    }
  });

test("a change between any two operations of a status: nothing is taken for removed", () => {
  for (const nth of operationsOf((kernel) => listAttachments(kernel, bpffs), add).keys()) {
    const kernel = machine();
    add(kernel);
    const before = kernel.operations.length;
    kernel.interfere = (_, number) => {
      if (number === before + nth + 1) change(kernel);
    };
    const [status] = listAttachments(kernel, bpffs);
    kernel.interfere = undefined;
    assert.not.match(JSON.stringify(status?.degraded), /filter/, `operation ${nth + 1}`);
  }
});

test("a change that fails at any operation: one chain or the other, in both directions", () => {
  for (const { kernel, error, at } of eachOf(change, add, "fails")) {
    // What could not be cleaned up, or pointed back, is settled by whoever comes next.
    if (error !== undefined) settle(kernel, pins);
    state(kernel);
    del(kernel);
    assert.equal(kernel.left(), [], at);
  }
});

test("a change killed at any operation is settled, into one chain or the other", () => {
  const seen = new Set<string>();
  for (const { kernel, at } of eachOf(change, add, "dies")) {
    settle(kernel, pins);
    seen.add(state(kernel));
    assert.is(kernel.files().filter((path) => /\/g\d+$/.test(path)).length, 1, `${at}: ${kernel.files().join("\n")}`);
    del(kernel);
    assert.equal(kernel.left(), [], at);
  }
  assert.equal([...seen].sort(), ["first", "second"]);
});

test("what the pod removes is missed by CHECK, kept by gc and put back by a change", () => {
  const kernel = machine();
  add(kernel);
  kernel.removeFilters();
  differs(
    caught(() => check(kernel, bpffs, id, netns)),
    /the ingress filter is not on eth0 any more.*CAP_NET_ADMIN.*remora apply puts it back/,
  );
  const collected = collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock });
  assert.equal(collected, { settled: [], removed: [], failed: [] });
  assert.equal(
    listAttachments(kernel, bpffs)[0]?.degraded.map(({ program }) => program),
    ["(ingress filter)", "(egress filter)"],
  );
  assert.not(isAsPlanned(kernel, firstPlan(kernel), recordOf(kernel)));
  change(kernel);
  assert.is(state(kernel), "second");
  kernel.removeFilters();
  del(kernel);
  assert.equal(kernel.left(), []);
});

test("a namespace that is gone: gc removes the rest, and DEL needs none", () => {
  for (const mend of [del, (kernel: FakeKernel) => collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock })]) {
    const kernel = machine();
    add(kernel);
    kernel.removeNamespace(netns);
    mend(kernel);
    assert.equal(kernel.left(), []);
  }
});

test("a path that names another pod's namespace by now: nothing there is touched", () => {
  const kernel = machine();
  add(kernel);
  kernel.removeNamespace(netns);
  kernel.namespace(netns);
  const other = { ...id, containerId: "other" };
  attach(kernel, { ...firstPlan(kernel), id: other });
  const { removed } = collect(kernel, bpffs, { now: kernel.clock });
  assert.equal(
    removed.map(({ containerId, reason }) => [containerId, reason]),
    [[id.containerId, "its interface is gone"]],
  );
  check(kernel, bpffs, other, netns);
  detach(kernel, bpffs, other);
  assert.equal(kernel.left(), []);
});

test("from where the node's namespaces are not to be seen, nothing is taken for gone", () => {
  const kernel = machine();
  add(kernel);
  kernel.hidden = ["/run/netns"];
  const nobody = { settled: [], removed: [], failed: [] };
  assert.equal(collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock }), nobody);
  const error = caught(() => del(kernel)) as AggregateError;
  for (const each of error.errors) assert.instance(each, KernelError);
  assert.match(error.message, /\/run\/netns\/pod cannot be seen from here/);
  assert.is(names(kernel, "ingress"), whole.first.ingress, "packets meet a whole chain");
  kernel.hidden = [];
  collect(kernel, bpffs, { graceSeconds: 0, now: kernel.clock });
  assert.equal(kernel.left(), []);
});

test("other people's filters and qdisc stay, and status names who is before us", () => {
  const kernel = machine();
  const place = placeOf(kernel, "ingress");
  addForeignFilter(kernel, place);
  const before = kernel.left();
  add(kernel);
  assert.not(listAttachments(kernel, bpffs)[0]?.behind, "ours was put before it");
  addForeignFilter(kernel, place);
  const [behind] = listAttachments(kernel, bpffs)[0]?.behind ?? [];
  assert.match(JSON.stringify(behind), /"direction":"ingress","at":"pod","programs":\["theirs \(id \d+\)"\]/);
  const [newest] = kernel.listFilters(place);
  if (newest) kernel.detachFilter(place, newest);
  del(kernel);
  assert.equal(kernel.left(), before);
});

test("where the kernel has TCX as well, its programs come before the filter", () => {
  const kernel = modern();
  add(kernel);
  const head = kernel.openProgramById(kernel.listFilters(placeOf(kernel, "egress"))[0]?.programId ?? 0);
  const counters = kernel.createMap({ type: "percpu_array", name: "c", keySize: 4, valueSize: 8, maxEntries: 1 });
  const chain = kernel.createMap({ type: "prog_array", name: "theirs", keySize: 4, valueSize: 4, maxEntries: 1 });
  const { program } = kernel.loadStage({
    ...{ object: kernel.object("theirs"), name: "theirs", position: 0, length: 1, proceedOn: [], chain, counters },
    ...{ entries: [{ function: "handle", parameters: [] }], failurePolicy: "open", countHead: false, reuse: [] },
  });
  const link = kernel.attachTcx({ program, ...placeOf(kernel, "egress") });
  assert.match(JSON.stringify(listAttachments(kernel, bpffs)[0]?.behind), /"egress".*"theirs \(id/);
  for (const fd of [link, program, chain, counters, head]) kernel.close(fd);
});

test("auto takes TCX where the kernel has it, else clsact; what was asked for is taken", () => {
  assert.is(chooseHook(modern(), "auto").hook, "tcx");
  const { hook: chosen, why } = chooseHook(machine(), "auto");
  assert.is(chosen, "clsact");
  assert.match(why, /Linux 6\.6/);
  assert.is(chooseHook(machine(), "tcx").hook, "tcx");
  assert.is(chooseHook(modern(), "clsact").hook, "clsact");
});

test("at: host is refused: there nobody could be sure to come first", () => {
  const kernel = machine();
  const wall = select(kernel, "wall", { select: { at: "host" } });
  const error = caught(() => plan(input(kernel, [wall], { hook })));
  assert.is((error as RemoraError).code, code.unsupported);
  assert.match((error as Error).message, /wall: at: host takes TCX.*clsact/);
});

test("a kernel without the qdisc: the error names what it takes, and nothing is left", () => {
  const kernel = machine();
  kernel.withoutClsact = true;
  const error = asRemoraError(caught(() => add(kernel)));
  assert.is((error as RemoraError).code, code.kernelTooOld);
  assert.match((error as Error).message, /CONFIG_NET_SCH_INGRESS/);
  assert.equal(kernel.left(), []);
});

test("a filter of the pod's that the kernel cannot list keeps nobody from ours: CHECK, status, a change, DEL", () => {
  const kernel = machine();
  add(kernel);
  kernel.largeFilter = true;
  assert.is(state(kernel), "first");
  assert.equal(listAttachments(kernel, bpffs)[0]?.degraded, []);
  watched(kernel, () => change(kernel));
  assert.is(state(kernel), "second");
  del(kernel);
  assert.equal(kernel.left(), ["clsact of eth0: 0 filters"], "the qdisc, which somebody needs");
});

test("CHECK: what is pinned in a filter's place, and a filter that runs something else", () => {
  const kernel = machine();
  add(kernel);
  kernel.removePin(pins.filter("ingress"));
  differs(
    caught(() => check(kernel, bpffs, id, netns)),
    /the ingress filter is missing/,
  );
  kernel.pin(kernel.openPin(pins.record).fd, pins.filter("ingress"));
  differs(
    caught(() => check(kernel, bpffs, id, netns)),
    /filter_ingress is a map, not the ingress filter/,
  );
});

test.run();
