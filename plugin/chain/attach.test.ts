// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type RemoraError } from "../errors.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { KernelError } from "../kernel/port.ts";
import { attach } from "./attach.ts";
import { check } from "./check.ts";
import { detach } from "./detach.ts";
import { bpffs, caught, id, input, machine, netns, select } from "./fixture.ts";
import { EntryFailed } from "./generation.ts";
import { claim } from "./lock.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, type PlanInput, plan } from "./plan.ts";

const pins = pinsOf(bpffs, id);

/** All places, shared maps, a map pinned by name, an inner PROG_ARRAY, a map of the node: something of everything. */
function richPlan(kernel: FakeKernel, change: Partial<PlanInput> = {}): ChainPlan {
  const selected = [
    select(kernel, "plain", { maps: [{ name: "hits" }], parameters: ["rate"] }),
    select(kernel, "pair", {
      entry: { ingress: "from", egress: "to" },
      maps: [
        { name: "flows", pinned: true },
        { name: "pair.rodata", internal: true },
      ],
    }),
    select(kernel, "l3af", { maps: [{ name: "next.map", type: "prog_array" }], directions: ["egress"] }),
    select(kernel, "guard", { maps: [{ name: "deny.list" }], change: { mapScopes: { "deny.list": "node" } } }),
    select(kernel, "wall", {
      entry: { ingress: "from", egress: "to" },
      maps: [{ name: "seen", pinned: true }],
      select: { at: "host" },
    }),
  ];
  return plan(input(kernel, selected, change));
}

test("stages behind a program that wants to know how packets end get its map, in its own place", () => {
  const kernel = machine();
  const ended = { name: "ended", type: "percpu_array", valueSize: 24 };
  const log = select(kernel, "log", {
    entry: { ingress: "from", egress: "to" },
    maps: [ended, { name: "flows" }],
    change: { endingMaps: ["ended"] },
  });
  const wall = select(kernel, "wall", { directions: ["egress"], select: { at: "host" } });
  attach(kernel, plan(input(kernel, [select(kernel, "plain"), log, select(kernel, "acl"), log, wall])));
  for (const [place, told] of [
    ["ingress", [0, 0, 1, 1]],
    ["egress", [0, 0, 1, 1]],
    ["host", [0]],
  ] as const)
    assert.equal(
      kernel.chains(place)[0]?.map(({ endings = [] }) => endings.length),
      told,
      place,
    );
  assert.equal(kernel.mistakes, []);
  assert.is(kernel.openFds(), 0);
  check(kernel, bpffs, id, netns);
  detach(kernel, bpffs, id);
  assert.equal(kernel.left(), []);
});

test("a chain in each direction, its state pinned, no descriptor left", () => {
  const kernel = machine();
  attach(kernel, richPlan(kernel));
  assert.is(kernel.openFds(), 0);
  assert.equal(kernel.mistakes, []);
  const [ingress = []] = kernel.chains("ingress");
  const [egress = []] = kernel.chains("egress");
  assert.equal(
    ingress.map(({ name, position, length, countHead }) => [name, position, length, countHead]),
    [
      ["plain", 0, 4, true],
      ["pair", 1, 4, false],
      ["guard", 2, 4, false],
      ["wall", 3, 4, false],
    ],
  );
  assert.equal(
    egress.map(({ entries }) => entries[0]?.function),
    ["handle", "to", "handle", "handle"],
  );
  assert.equal(
    kernel.chains("host").map((chain) => chain.map(({ name, entries }) => [name, entries[0]?.function])),
    [[["wall", "to"]]],
  );
  assert.equal(
    kernel.operations.filter((operation) => operation.startsWith("attachTcx")),
    ["attachTcx ingress", "attachTcx egress", "attachTcx ingress before"],
  );
  const below = (path: string) => path.slice(pins.directory.length + 1);
  assert.equal(
    kernel
      .files()
      .filter((path) => path.startsWith(`${pins.directory}/`))
      .map(below),
    [
      "g1",
      "g1/egress",
      "g1/egress/chain",
      "g1/egress/counters",
      "g1/egress/maps",
      "g1/egress/maps/1",
      "g1/egress/maps/1/flows",
      "g1/egress/maps/2",
      "g1/egress/maps/2/next%2emap",
      "g1/host",
      "g1/host/chain",
      "g1/host/counters",
      "g1/host/maps",
      "g1/host/maps/0",
      "g1/host/maps/0/seen",
      "g1/ingress",
      "g1/ingress/chain",
      "g1/ingress/counters",
      "g1/ingress/maps",
      "g1/ingress/maps/1",
      "g1/ingress/maps/1/flows",
      "g1/ingress/maps/3",
      "g1/ingress/maps/3/seen",
      "link_egress",
      "link_host",
      "link_ingress",
      "record",
    ],
  );
  check(kernel, bpffs, id, netns);
});

test("directions of one program share its maps, but not its parameters", () => {
  const kernel = machine();
  attach(kernel, richPlan(kernel));
  const shared = pins.direction(1, "ingress").map(1, "flows");
  assert.is(kernel.tamper(pins.direction(1, "egress").map(1, "flows")), kernel.tamper(shared));
  const reused = kernel.chains("egress")[0]?.[1]?.reuse.map(({ name }) => name);
  assert.equal(reused, ["flows"]);
  assert.equal(kernel.chains("egress")[0]?.[0]?.reuse, []);
});

test("a direction without programs gets no chain, and no programs at all leave nothing", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [select(kernel, "a", { directions: ["egress"] })])));
  assert.is(kernel.chains("ingress").length, 0);
  assert.is(kernel.chains("egress").length, 1);
  check(kernel, bpffs, id, netns);
  // An ADD again, now with nothing: what was there goes.
  attach(kernel, plan(input(kernel, [])));
  assert.equal(kernel.left(), []);
});

test("what is missing is recorded, also where it was all there was", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [], { missing: [{ program: "x", reason: "gone" }] })));
  assert.equal(check(kernel, bpffs, id, netns)?.degraded, [{ program: "x", reason: "gone" }]);
  assert.ok(detach(kernel, bpffs, id));
  assert.equal(kernel.left(), []);
});

test("the folders above the root are made where they are missing", () => {
  const kernel = machine();
  const deep = "/sys/fs/bpf/a/b/remora";
  const config = { bpffs: deep, failurePolicy: "closed" as const, hook: "auto" as const, programDirs: [] };
  attach(kernel, richPlan(kernel, { config }));
  check(kernel, deep, id, netns);
  detach(kernel, deep, id);
  assert.equal(kernel.left(), ["/sys/fs/bpf/a", "/sys/fs/bpf/a/b"]);
});

test("DEL leaves nothing, twice, with the namespace gone as well", () => {
  const kernel = machine();
  attach(kernel, richPlan(kernel));
  kernel.removeNamespace(netns);
  assert.is(detach(kernel, bpffs, id), true);
  assert.is(detach(kernel, bpffs, id), false);
  assert.equal(kernel.left(), []);
});

test("DEL leaves the neighbours", () => {
  const kernel = machine();
  const other = { ...id, containerId: "other" };
  attach(kernel, richPlan(kernel));
  attach(kernel, richPlan(kernel, { id: other }));
  detach(kernel, bpffs, id);
  check(kernel, bpffs, other, netns);
  detach(kernel, bpffs, other);
  assert.equal(kernel.left(), []);
});

test("DEL does not touch a folder that is on no bpffs", () => {
  const kernel = machine();
  assert.is(detach(kernel, "/etc/remora", id), false);
  assert.equal(kernel.operations, ["isBpffs /etc/remora"]);
});

/** The kernel's own word, behind what was said about it. */
function firstOf(error: unknown): unknown {
  if (error instanceof EntryFailed) return error.cause;
  return error instanceof AggregateError ? error.errors[0] : error;
}

/** How many operations something takes. */
function operationsOf(act: (kernel: FakeKernel) => void, prepare: (kernel: FakeKernel) => void): number {
  const kernel = machine();
  prepare(kernel);
  const before = kernel.operations.length;
  act(kernel);
  return kernel.operations.length - before;
}
const nothing = (): void => {};
const addOnce = (kernel: FakeKernel): void => attach(kernel, richPlan(kernel));

for (const [when, prepare] of [
  ["on a fresh node", nothing],
  ["where an earlier ADD is still attached", addOnce],
] as const) {
  test(`an ADD ${when} that fails at any operation leaves nothing and says what failed`, () => {
    const operations = operationsOf(addOnce, prepare);
    assert.ok(operations > 50, `only ${operations} operations`);
    for (let nth = 1; nth <= operations; nth++) {
      const kernel = machine();
      prepare(kernel);
      const before = kernel.operations.length;
      kernel.failAt(nth, "ENOMEM");
      const error = caught(() => addOnce(kernel));
      const failed = kernel.operations[before + nth - 1] ?? "";
      if (failed === "close" && error === undefined) {
        check(kernel, bpffs, id, netns);
        continue;
      }
      const cause = firstOf(error);
      assert.instance(cause, KernelError, failed);
      assert.is((cause as KernelError).code, "ENOMEM", failed);
      // Where even the old chain could not be removed, DEL does it.
      if (failedInDetach(kernel, before, nth)) detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], failed);
    }
  });
}

/** Before the first map is made, what an earlier ADD left is removed. */
function failedInDetach(kernel: FakeKernel, before: number, nth: number): boolean {
  const claim = kernel.operations.findIndex((operation, index) => index >= before && operation.startsWith("createMap"));
  return claim < 0 || before + nth - 1 < claim;
}

test("a second failure while taking back is reported apart, and the first one thrown", () => {
  const operations = operationsOf(addOnce, nothing);
  let reported = 0;
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    kernel.failAt(nth, "ENOMEM");
    kernel.failAt(nth + 1, "EIO");
    const reports: unknown[] = [];
    const error = caught(() => attach(kernel, richPlan(kernel), (report) => reports.push(report)));
    // A close that fails has closed, and is nobody's concern.
    if (error === undefined || kernel.operations[nth - 1] === "close") continue;
    assert.match(String(firstOf(error)), /ENOMEM/);
    reported += reports.length;
    kernel.calm();
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
  assert.ok(reported > 10);
});

for (const [then, mend] of [
  ["DEL", nothing],
  ["another ADD, then DEL", addOnce],
] as const) {
  test(`an ADD killed at any operation is cleaned up by ${then}`, () => {
    const operations = operationsOf(addOnce, nothing);
    for (let nth = 1; nth <= operations; nth++) {
      const kernel = machine();
      kernel.crashAt(nth);
      caught(() => addOnce(kernel));
      assert.ok(kernel.dead);
      kernel.restart();
      mend(kernel);
      if (mend !== nothing) check(kernel, bpffs, id, netns);
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operation ${nth}`);
    }
  });
}

test("a DEL killed at any operation is finished by the next", () => {
  const operations = operationsOf((kernel) => detach(kernel, bpffs, id), addOnce);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    addOnce(kernel);
    kernel.crashAt(nth);
    caught(() => detach(kernel, bpffs, id));
    assert.ok(kernel.dead);
    kernel.restart();
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("a DEL that fails at one operation has tried all the rest, and names what failed", () => {
  const operations = operationsOf((kernel) => detach(kernel, bpffs, id), addOnce);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    addOnce(kernel);
    kernel.failAt(nth, "EIO");
    const before = kernel.operations.length;
    const error = caught(() => detach(kernel, bpffs, id));
    // A lock that cannot be closed is given back all the same.
    if (error || kernel.operations[before + nth - 1] !== "close")
      assert.match((error as Error | undefined)?.message ?? "", /EIO/);
    for (const place of ["ingress", "egress", "host"] as const)
      assert.equal(kernel.chains(place), nth === 1 ? kernel.chains(place) : [], "packets still meet the chain");
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("a DEL between any two operations of an ADD, and beside another DEL: nothing is left, or a whole chain", () => {
  const operations = operationsOf(addOnce, nothing);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    kernel.interfere = (_, number) => {
      if (number === nth) detach(kernel, bpffs, id);
    };
    const error = caught(() => addOnce(kernel));
    kernel.interfere = undefined;
    if (error === undefined) {
      // The DEL came before the claim, or took nothing that mattered; or it took all of it at the end.
      if (check(kernel, bpffs, id, netns)) detach(kernel, bpffs, id);
    } else assert.is((error as RemoraError).code, code.unknownContainer, String(error));
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("two DELs side by side both succeed", () => {
  const operations = operationsOf((kernel) => detach(kernel, bpffs, id), addOnce);
  for (let nth = 1; nth <= operations; nth++) {
    const kernel = machine();
    addOnce(kernel);
    let done = false;
    const before = kernel.operations.length;
    kernel.interfere = (_, number) => {
      if (done || number !== before + nth) return;
      done = true;
      detach(kernel, bpffs, id);
    };
    detach(kernel, bpffs, id);
    kernel.interfere = undefined;
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("a network's folder that a DEL removes while an ADD makes it is made again", () => {
  const kernel = machine();
  let times = 3;
  kernel.interfere = (operation) => {
    if (operation !== `makeDirectory ${pins.directory}` || times-- <= 0) return;
    kernel.removeDirectory(pins.network);
    kernel.removeDirectory(pins.root);
  };
  addOnce(kernel);
  kernel.interfere = undefined;
  check(kernel, bpffs, id, netns);
});

test("a folder that was removed and made again by others is noticed before anything is attached", async () => {
  const kernel = machine();
  using lock = await claim(kernel, pins, 0);
  kernel.interfere = (operation) => {
    if (operation !== "updateMap" || !kernel.operations.at(-2)?.startsWith("createMap remora_record")) return;
    detach(kernel, bpffs, id);
    // Another ADD is just as far: its folders are there, and these pins would be welcome in them.
    kernel.interfere = undefined;
    for (const path of [pins.root, pins.network, pins.directory]) kernel.makeDirectory(path);
  };
  const error = caught(() => attach(kernel, richPlan(kernel), undefined, lock));
  kernel.interfere = undefined;
  assert.is((error as RemoraError).code, code.unknownContainer);
  assert.equal(kernel.chains("ingress"), []);
});

test("a program that does not load is named", () => {
  const kernel = machine();
  const bad = select(kernel, "bad", { refusal: { code: "EACCES", message: "R0 !read_ok", log: "log" } });
  const error = caught(() => attach(kernel, plan(input(kernel, [select(kernel, "a"), bad]))));
  assert.instance(error, EntryFailed);
  assert.is((error as EntryFailed).selected, bad);
  assert.equal(kernel.left(), []);
});

test("a link that is detached already is no obstacle to DEL", () => {
  const kernel = machine();
  addOnce(kernel);
  const { fd } = kernel.openPin(pins.link("ingress"));
  kernel.detachLink(fd);
  kernel.close(fd);
  detach(kernel, bpffs, id);
  assert.equal(kernel.left(), []);
});

test("long and odd names", () => {
  const kernel = machine();
  const odd = { network: "n.".repeat(200), containerId: "c.".repeat(300), ifname: "eth0" };
  attach(kernel, richPlan(kernel, { id: odd }));
  assert.equal(check(kernel, bpffs, odd, netns)?.id, odd);
  detach(kernel, bpffs, odd);
  assert.equal(kernel.left(), []);
});

test.run();
