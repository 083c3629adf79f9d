// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Crash, type FakeKernel } from "../kernel/fake.ts";
import { counterLayout, endings, KernelError } from "../kernel/port.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, caught, id, input, machine, netns, select } from "./fixture.ts";
import { EntryFailed } from "./generation.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, type PlanInput, plan } from "./plan.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { isAsPlanned, replace } from "./replace.ts";
import { settle } from "./settle.ts";
import { listAttachments } from "./status.ts";

const pins = pinsOf(bpffs, id);

function recordOf(kernel: FakeKernel): AttachmentRecord {
  const record = readRecord(kernel, pins);
  if (!record) throw new Error("no record");
  return record;
}

/** Both directions, one with a function per direction, pinned and shared maps. */
function oldPlan(kernel: FakeKernel): ChainPlan {
  return plan(
    input(kernel, [
      select(kernel, "plain", { maps: [{ name: "hits" }], parameters: ["rate"], select: { shown: { rate: 1 } } }),
      select(kernel, "pair", { entry: { ingress: "from", egress: "to" }, maps: [{ name: "flows", pinned: true }] }),
      select(kernel, "guard", { maps: [{ name: "deny.list" }], change: { mapScopes: { "deny.list": "node" } } }),
    ]),
  );
}

/** One program gone, one new, another order, another parameter. */
function newPlan(kernel: FakeKernel, generation = 2, change: Partial<PlanInput> = {}): ChainPlan {
  return plan(
    input(
      kernel,
      [
        select(kernel, "pair", { entry: { ingress: "from", egress: "to" }, maps: [{ name: "flows", pinned: true }] }),
        select(kernel, "fresh", {
          maps: [{ name: "own" }, { name: "shared" }],
          change: { mapScopes: { shared: "node" } },
        }),
        select(kernel, "plain", { maps: [{ name: "hits" }], parameters: ["rate"], select: { shown: { rate: 2 } } }),
      ],
      { generation, ...change },
    ),
  );
}

function add(kernel: FakeKernel): void {
  attach(kernel, oldPlan(kernel));
}
/** As a command does it: on settled ground, of what is there then. */
function change(kernel: FakeKernel): void {
  settle(kernel, pins);
  const old = recordOf(kernel);
  replace(kernel, newPlan(kernel, old.generation + 1), old);
}

const names = (kernel: FakeKernel, direction: "ingress" | "egress"): string =>
  kernel
    .chains(direction)
    .map((chain) => chain.map(({ name }) => name).join(" "))
    .join(" | ");
const whole = { old: "plain pair guard", new: "pair fresh plain" };

/** Which of the two it is: wholly, in both directions, by the record as by the links. */
function state(kernel: FakeKernel): "old" | "new" {
  const record = check(kernel, bpffs, id, netns);
  const is = record?.chains.ingress?.stages[0]?.entries[0]?.program === "plain" ? "old" : "new";
  assert.is(names(kernel, "ingress"), whole[is]);
  assert.is(names(kernel, "egress"), whole[is]);
  const other = kernel.files().filter((path) => /\/g\d+$/.test(path));
  assert.equal(other, [pins.generation(record?.generation ?? 0)]);
  return is;
}

function operationsOf(act: (kernel: FakeKernel) => void): number {
  const kernel = machine();
  add(kernel);
  const before = kernel.operations.length;
  act(kernel);
  return kernel.operations.length - before;
}

/** The operations of a change at which a crash leaves something else than one an operation earlier. */
function differentCrashes(): number[] {
  const seen = new Set<string>();
  return Array.from({ length: operationsOf(change) }, (_, index) => index + 1).filter((nth) => {
    const kernel = machine();
    add(kernel);
    kernel.crashAt(nth);
    caught(() => change(kernel));
    kernel.restart();
    const left = [...kernel.left(), names(kernel, "ingress"), names(kernel, "egress")].join("\n");
    return !seen.has(left) && seen.add(left);
  });
}

test("another chain: the new one is there, the old one gone, with no descriptor left", () => {
  const kernel = machine();
  add(kernel);
  assert.is(state(kernel), "old");
  change(kernel);
  assert.is(state(kernel), "new");
  assert.is(recordOf(kernel).generation, 2);
  assert.is(kernel.openFds(), 0);
  assert.equal(kernel.mistakes, []);
  assert.not(
    kernel.files().some((path) => path.includes("deny")),
    "a node's map that nobody uses any more",
  );
  detach(kernel, bpffs, id);
  assert.equal(kernel.left(), []);
});

test("the links are given the new chain; they are the same links", () => {
  const kernel = machine();
  add(kernel);
  const link = kernel.tamper(pins.link("ingress"));
  change(kernel);
  assert.is(kernel.tamper(pins.link("ingress")), link);
  assert.is(kernel.operations.filter((operation) => operation.startsWith("attachTcx")).length, 2);
});

test("the old generation is touched only when the links are switched and no packet can be in it", () => {
  const kernel = machine();
  add(kernel);
  const before = kernel.operations.length;
  change(kernel);
  const operations = kernel.operations.slice(before);
  const at = (start: string): number => operations.findIndex((operation) => operation.startsWith(start));
  const steps = [
    `pin ${pins.nextRecord}`,
    "updateLink",
    "renamePin",
    "awaitPrograms",
    `removePin ${pins.generation(1)}/`,
  ];
  const places = steps.map(at);
  assert.not(places.includes(-1));
  assert.equal(
    places,
    [...places].sort((a, b) => a - b),
  );
  assert.ok(operations.lastIndexOf("updateLink") < at("awaitPrograms"));
});

test("a direction may come and go", () => {
  const kernel = machine();
  const only = (direction: "ingress" | "egress", generation: number): ChainPlan =>
    plan(input(kernel, [select(kernel, "a", { directions: [direction] })], { generation }));
  attach(kernel, only("ingress", 1));
  replace(kernel, only("egress", 2), recordOf(kernel));
  check(kernel, bpffs, id, netns);
  assert.is(names(kernel, "ingress"), "");
  assert.is(names(kernel, "egress"), "a");
  replace(kernel, plan(input(kernel, [], { generation: 3 })), recordOf(kernel));
  check(kernel, bpffs, id, netns);
  assert.is(names(kernel, "egress"), "");
  replace(kernel, newPlan(kernel, 4), recordOf(kernel));
  assert.is(state(kernel), "new");
});

// ---- what goes on --------------------------------------------------------------------------------------------------

const mapId = (kernel: FakeKernel, program: string, map: string, direction: "ingress" | "egress" = "ingress") =>
  recordOf(kernel)
    .chains[direction]?.stages.find(({ entries: [entry] }) => entry?.program === program)
    ?.maps.find(({ name }) => name === map)?.id;

test("maps of a program that stays go on, per direction where the directions have their own", () => {
  const kernel = machine();
  add(kernel);
  const before = (["ingress", "egress"] as const).map((direction) => [
    mapId(kernel, "plain", "hits", direction),
    mapId(kernel, "pair", "flows", direction),
  ]);
  assert.is.not(before[0]?.[0], before[1]?.[0]);
  assert.is(before[0]?.[1], before[1]?.[1]);
  change(kernel);
  const after = (["ingress", "egress"] as const).map((direction) => [
    mapId(kernel, "plain", "hits", direction),
    mapId(kernel, "pair", "flows", direction),
  ]);
  assert.equal(after, before);
  check(kernel, bpffs, id, netns);
});

test("a map of another size starts anew, and so do variables of another object and PROG_ARRAYs", () => {
  const kernel = machine();
  const sketch = (version: string, maxEntries: number) => ({
    maps: [
      { name: "table", maxEntries },
      { name: "same" },
      { name: "x.bss", internal: true },
      { name: "x.rodata", internal: true },
      { name: "next", type: "prog_array" },
    ],
    change: { sha256: version },
  });
  const ids = (): unknown =>
    Object.fromEntries(
      recordOf(kernel).chains.ingress?.stages[0]?.maps.map(({ name, id: number }) => [name, number]) ?? [],
    );
  const kept = (before: unknown, after: unknown): string[] =>
    Object.entries(before as object).flatMap(([name, number]) =>
      (after as Record<string, number>)[name] === number ? [name] : [],
    );
  attach(kernel, plan(input(kernel, [select(kernel, "x", sketch("one", 10))])));
  const one = ids();
  replace(kernel, plan(input(kernel, [select(kernel, "x", sketch("one", 10))], { generation: 2 })), recordOf(kernel));
  const two = ids();
  assert.equal(kept(one, two), ["table", "same", "x.bss"]);
  replace(kernel, plan(input(kernel, [select(kernel, "x", sketch("two", 20))], { generation: 3 })), recordOf(kernel));
  assert.equal(kept(two, ids()), ["same"]);
});

test("of two instances of one program, the one that stays keeps its own maps", () => {
  const kernel = machine();
  const limit = (rate: number) =>
    select(kernel, "limit", { maps: [{ name: "bucket" }], select: { shown: { rate } }, directions: ["ingress"] });
  attach(kernel, plan(input(kernel, [limit(1), limit(5)])));
  const [, second] = recordOf(kernel).chains.ingress?.stages ?? [];
  replace(kernel, plan(input(kernel, [limit(5)], { generation: 2 })), recordOf(kernel));
  assert.is(recordOf(kernel).chains.ingress?.stages[0]?.maps[0]?.id, second?.maps[0]?.id);
});

test("counters go on with their program, through changes and places", () => {
  const kernel = machine();
  add(kernel);
  const shot = counterLayout.endings + endings.indexOf("shot");
  const { headPackets, headBytes, endedBytes } = counterLayout;
  const count = (generation: number): void => {
    const path = pins.direction(generation, "ingress").counters;
    kernel.count(path, 0, { [headPackets]: 100, [headBytes]: 5000, [shot]: 10, [endedBytes]: 500 });
    kernel.count(path, 2, { [shot]: 5, [endedBytes]: 250 });
  };
  const shown = (): unknown =>
    listAttachments(kernel, bpffs)[0]?.ingress.map(({ program, packets, bytes, proceeded, ended }) => [
      program,
      packets,
      bytes,
      proceeded,
      ended.shot,
    ]);
  count(1);
  assert.equal(shown(), [
    ["plain", 100, 5000, 90, 10],
    ["pair", 90, 4500, 90, 0],
    ["guard", 90, 4500, 85, 5],
  ]);
  change(kernel);
  assert.equal(shown(), [
    ["pair", 90, 4500, 90, 0],
    ["fresh", 0, 0, 0, 0],
    ["plain", 100, 5000, 90, 10],
  ]);
  count(2);
  change(kernel);
  assert.equal(shown(), [
    ["pair", 190, 9500, 180, 10],
    ["fresh", 90, 4500, 90, 0],
    ["plain", 190, 9500, 175, 15],
  ]);
});

test("packets that the old generation counts to its last moment are not lost, whatever is interrupted", () => {
  const { headPackets } = counterLayout;
  const counters = (generation: number): string => pins.direction(generation, "ingress").counters;
  /** Generation 2, whose base holds 100 of generation 1 for `plain`, which is its last position. */
  const second = (): FakeKernel => {
    const kernel = machine();
    add(kernel);
    kernel.count(counters(1), 0, { [headPackets]: 100 });
    change(kernel);
    kernel.count(counters(2), 0, { [headPackets]: 1 });
    return kernel;
  };
  const counting = second();
  const start = counting.operations.length;
  change(counting);
  const operations = counting.operations.length - start;
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = second();
    const before = kernel.operations.length;
    // As late as can be: while the change waits for packets to leave.
    kernel.interfere = (operation) => {
      if (operation === "awaitPrograms" && kernel.files().includes(counters(2)))
        kernel.count(counters(2), 0, { [headPackets]: 7 });
    };
    kernel.crashAt(nth);
    caught(() => change(kernel));
    kernel.interfere = undefined;
    const reached = kernel.operations.slice(before).includes("awaitPrograms");
    kernel.restart();
    settle(kernel, pins);
    const [status] = listAttachments(kernel, bpffs);
    const plain = status?.ingress.find(({ program }) => program === "plain");
    assert.is(plain?.packets, 100 + (reached ? 7 : 1), `operation ${nth}`);
    assert.equal(status?.degraded, []);
  }
});

// ---- what fails ----------------------------------------------------------------------------------------------------

test("a program of the new chain that does not load leaves the old one untouched", () => {
  const kernel = machine();
  add(kernel);
  const files = kernel.files();
  const bad = select(kernel, "bad", { refusal: { code: "EACCES", message: "R0 !read_ok", log: "log" } });
  const error = caught(() => replace(kernel, plan(input(kernel, [bad], { generation: 2 })), recordOf(kernel)));
  assert.instance(error, EntryFailed);
  assert.is(state(kernel), "old");
  assert.equal(kernel.files(), files);
  assert.is(kernel.openFds(), 0);
});

test("a change that fails at any operation leaves the old chain or the new one, and can be repeated", () => {
  const operations = operationsOf(change);
  const seen = new Set<string>();
  assert.ok(operations > 60, `only ${operations} operations`);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    add(kernel);
    const before = kernel.operations.length;
    kernel.failAt(nth, "ENOMEM");
    const error = caught(() => change(kernel));
    const failed = `operation ${nth}, ${kernel.operations[before + nth - 1]}`;
    kernel.calm();
    assert.is(kernel.openFds(), 0, failed);
    assert.equal(kernel.mistakes, [], failed);
    // What could not be cleaned up is cleaned up by whoever comes next; which chain it is, is certain before.
    const is = names(kernel, "ingress") === whole.old ? "old" : "new";
    assert.is(names(kernel, "ingress"), whole[is], failed);
    assert.is(names(kernel, "egress"), whole[is], failed);
    if (error !== undefined) assert.is(is, "old", failed);
    settle(kernel, pins);
    assert.is(state(kernel), is, failed);
    seen.add(`${is}${error === undefined ? "" : " with an error"}`);
    change(kernel);
    assert.is(state(kernel), "new", failed);
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), [], failed);
  }
  assert.equal([...seen].sort(), ["new", "old with an error"]);
});

test("two failures in a row: never half a chain after the next settle", () => {
  const operations = operationsOf(change);
  for (let nth = 1; nth <= operations; nth++)
    for (const later of [1, 2, 3]) {
      const kernel = machine();
      add(kernel);
      kernel.failAt(nth, "ENOMEM");
      kernel.failAt(nth + later, "EIO");
      caught(() => change(kernel));
      kernel.calm();
      settle(kernel, pins);
      state(kernel);
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operations ${nth} and ${nth + later}`);
    }
});

for (const [then, mend, expected] of [
  ["CHECK", (kernel: FakeKernel) => void settle(kernel, pins), undefined],
  ["gc", (kernel: FakeKernel) => assert.equal(collect(kernel, bpffs).failed, []), undefined],
  ["another change", change, "new"],
  ["ADD", add, "old"],
] as const) {
  test(`a change killed at any operation is settled by ${then}`, () => {
    const operations = operationsOf(change);
    for (let nth = 1; nth <= operations; nth++) {
      const kernel = machine();
      add(kernel);
      kernel.crashAt(nth);
      const error = caught(() => change(kernel));
      assert.ok(kernel.dead);
      if (error !== undefined) assert.instance(error instanceof AggregateError ? error.errors[0] : error, Crash);
      kernel.restart();
      mend(kernel);
      const is = state(kernel);
      if (expected) assert.is(is, expected, `operation ${nth}`);
      assert.is(settle(kernel, pins), undefined, "nothing is left to settle");
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operation ${nth}`);
    }
  });
}

test("a settle killed at any operation is finished by the next, from every point of a change", () => {
  for (const nth of differentCrashes())
    for (let second = 1; ; second++) {
      const kernel = machine();
      add(kernel);
      kernel.crashAt(nth);
      caught(() => change(kernel));
      kernel.restart();
      kernel.crashAt(second);
      caught(() => settle(kernel, pins));
      const done = !kernel.dead;
      kernel.restart();
      settle(kernel, pins);
      state(kernel);
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operations ${nth} and ${second}`);
      if (done) break;
    }
});

test("a change killed at any operation is taken away by DEL, also by one that is killed itself", () => {
  for (const nth of differentCrashes())
    for (let second = 1; ; second++) {
      const kernel = machine();
      add(kernel);
      kernel.crashAt(nth);
      caught(() => change(kernel));
      kernel.restart();
      kernel.crashAt(second);
      caught(() => detach(kernel, bpffs, id));
      const done = !kernel.dead;
      kernel.restart();
      // Between the two DELs somebody looks after the node: what is detached must not come back.
      const attached = names(kernel, "ingress") + names(kernel, "egress");
      collect(kernel, bpffs, { now: kernel.clock });
      if (attached === "") assert.is(names(kernel, "ingress") + names(kernel, "egress"), "");
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operations ${nth} and ${second}`);
      if (done) break;
    }
});

test("a DEL that does not wait, at any operation of a change: nothing is left", () => {
  const operations = operationsOf(change);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    add(kernel);
    const before = kernel.operations.length;
    kernel.interfere = (_, number) => {
      if (number === before + nth) detach(kernel, bpffs, id);
    };
    caught(() => change(kernel));
    kernel.interfere = undefined;
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("a change that dies with the pod: the journal names links that cannot be; DEL and gc still remove all", () => {
  const operations = operationsOf(change);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    add(kernel);
    kernel.crashAt(nth);
    caught(() => change(kernel));
    kernel.restart();
    kernel.removeNamespace(netns);
    caught(() => settle(kernel, pins));
    assert.equal(collect(kernel, bpffs, { now: kernel.clock + 10 ** 9 }).failed, []);
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("a change that cannot be completed is taken back", () => {
  const kernel = machine();
  add(kernel);
  kernel.interfere = (operation) => {
    if (operation.startsWith("updateLink")) kernel.crashAt(0);
  };
  caught(() => change(kernel));
  kernel.interfere = undefined;
  kernel.restart();
  kernel.interfere = (operation) => {
    if (operation.startsWith("updateLink")) kernel.failAt(0, "EPERM");
  };
  assert.match(settle(kernel, pins) ?? "", /taken back: .*EPERM/);
  kernel.interfere = undefined;
  assert.is(state(kernel), "old");
});

test("a link must not be made in a namespace that has taken the path of the dead one", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [select(kernel, "a", { directions: ["ingress"] })])));
  const next = plan(input(kernel, [select(kernel, "a", { directions: ["egress"] })], { generation: 2 }));
  const old = recordOf(kernel);
  kernel.removeNamespace(netns);
  kernel.namespace(netns);
  assert.match(String(caught(() => replace(kernel, next, old))), /not the network namespace any more/);
  assert.equal(kernel.chains("egress"), []);
});

// ---- nothing to do -------------------------------------------------------------------------------------------------

test("what is as planned is told from what differs in any point", () => {
  const kernel = machine();
  const sketch = { parameters: ["rate"], select: { shown: { rate: 1 } } };
  const asked = (change: object = {}): ChainPlan =>
    plan(input(kernel, [select(kernel, "p", { ...sketch, ...change }), select(kernel, "q")], { generation: 2 }));
  attach(kernel, { ...asked(), generation: 1 });
  const record = recordOf(kernel);
  assert.ok(isAsPlanned(kernel, asked(), record));
  for (const different of [
    { select: { shown: { rate: 2 } } },
    { select: { shown: { rate: 1 }, priority: 7 } },
    { select: { shown: { rate: 1 }, nodeWide: true } },
    { directions: ["egress" as const] },
    { change: { sha256: "other" } },
    { change: { version: "1.1" } },
    { change: { proceedOn: [0] } },
    { change: { failurePolicy: "open" as const } },
  ])
    assert.not(isAsPlanned(kernel, asked(different), record), JSON.stringify(different));
  const swapped = input(kernel, [select(kernel, "q"), select(kernel, "p", sketch)], { generation: 2 });
  assert.not(isAsPlanned(kernel, plan(swapped), record), "the order");
  kernel.removePin(pins.link("egress"));
  assert.not(isAsPlanned(kernel, asked(), record), "a link that is gone");
});

test("a chain that somebody has tampered with is made whole", () => {
  const kernel = machine();
  add(kernel);
  const { fd } = kernel.openPin(pins.link("ingress"));
  kernel.detachLink(fd);
  kernel.close(fd);
  kernel.removePin(pins.link("egress"));
  change(kernel);
  assert.is(state(kernel), "new");
});

test("an error of the kernel is thrown as it is", () => {
  const kernel = machine();
  add(kernel);
  kernel.interfere = (operation) => {
    if (operation.startsWith("updateLink")) kernel.failAt(0, "ENOMEM");
  };
  assert.instance(
    caught(() => change(kernel)),
    KernelError,
  );
});

test.run();
