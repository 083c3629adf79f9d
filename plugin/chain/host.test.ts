// SPDX-License-Identifier: Apache-2.0
/** The chain at the host's end: that it is told, checked, changed and collected as the others are. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import { Crash, type FakeKernel } from "../kernel/fake.ts";
import { counterLayout, endings } from "../kernel/port.ts";
import type { Place } from "../model.ts";
import { attach } from "./attach.ts";
import { changesBetween } from "./changes.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { detach } from "./detach.ts";
import { bpffs, caught, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { isAsPlanned, replace } from "./replace.ts";
import { settle } from "./settle.ts";
import { listAttachments } from "./status.ts";

const pins = pinsOf(bpffs, id);
const places = ["ingress", "egress", "host"] as const;

function recordOf(kernel: FakeKernel): AttachmentRecord {
  const record = readRecord(kernel, pins);
  if (!record) throw new Error("no record");
  return record;
}

/** `program@host`, the others in the pod; each has a map of its own. */
function planOf(kernel: FakeKernel, words: string, generation = 1): ChainPlan {
  const selected = words.split(" ").map((word) => {
    const [name = "", at = "pod"] = word.split("@");
    return select(kernel, name, { maps: [{ name: "bucket", pinned: true }], select: { at: at as Place } });
  });
  return plan(input(kernel, selected, { generation }));
}
const chains = (kernel: FakeKernel): string[] =>
  places.map((place) =>
    kernel
      .chains(place)
      .map((chain) => chain.map(({ name }) => name).join(" "))
      .join(" | "),
  );

/** Changes to chains with and without a host's end, in all ways. */
const changes = [
  ["another chain at the host's end", "a wall@host", "a b@host wall@host"],
  ["a program goes to the host's end", "a wall", "a wall@host"],
  ["a program comes back from it", "a wall@host", "a wall"],
] as const;
const states: Record<string, string[]> = {
  "a wall@host": ["a wall", "a", "wall"],
  "a b@host wall@host": ["a b wall", "a", "b wall"],
  "a wall": ["a wall", "a wall", ""],
};

for (const [what, old, next] of changes) {
  const begin = (): FakeKernel => {
    const kernel = machine();
    attach(kernel, planOf(kernel, old));
    return kernel;
  };
  const change = (kernel: FakeKernel): void => void replace(kernel, planOf(kernel, next, 2), recordOf(kernel));
  const operations = (() => {
    const kernel = begin();
    const before = kernel.operations.length;
    change(kernel);
    return kernel.operations.length - before;
  })();
  /** Wholly the one or the other, by the record as by the links. */
  const state = (kernel: FakeKernel): "old" | "next" => {
    const is = check(kernel, bpffs, id, netns)?.generation === 1 ? "old" : "next";
    assert.equal(chains(kernel), states[is === "old" ? old : next]);
    assert.is(recordOf(kernel).host === undefined, chains(kernel)[2] === "");
    return is;
  };

  test(`${what}: done, and done again it is nothing to do`, () => {
    const kernel = begin();
    assert.is(state(kernel), "old");
    assert.not(isAsPlanned(kernel, planOf(kernel, next), recordOf(kernel)));
    change(kernel);
    assert.is(state(kernel), "next");
    assert.ok(isAsPlanned(kernel, planOf(kernel, next), recordOf(kernel)));
    assert.is(kernel.openFds(), 0);
    assert.equal(kernel.mistakes, []);
    detach(kernel, bpffs, id);
    assert.equal(kernel.left(), []);
  });

  test(`${what}: that fails at any operation leaves the old chains or the new ones`, () => {
    for (let nth = 1; nth <= operations; nth++) {
      const kernel = begin();
      kernel.failAt(nth, "ENOMEM");
      caught(() => change(kernel));
      kernel.calm();
      settle(kernel, pins);
      state(kernel);
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operation ${nth}`);
    }
  });

  test(`${what}: killed at any operation, it is settled`, () => {
    for (let nth = 1; nth <= operations; nth++) {
      const kernel = begin();
      kernel.crashAt(nth);
      const error = caught(() => change(kernel));
      assert.ok(kernel.dead);
      if (error !== undefined) assert.instance(error instanceof AggregateError ? error.errors[0] : error, Crash);
      kernel.restart();
      settle(kernel, pins);
      state(kernel);
      detach(kernel, bpffs, id);
      assert.equal(kernel.left(), [], `operation ${nth}`);
    }
  });
}

test("a program that goes to the host's end takes its maps along", () => {
  const kernel = machine();
  attach(kernel, planOf(kernel, "a wall"));
  const bucket = (place: "egress" | "host"): number | undefined =>
    recordOf(kernel)
      .chains[place]?.stages.find(({ entries: [entry] }) => entry?.program === "wall")
      ?.maps.find(({ name }) => name === "bucket")?.id;
  const before = bucket("egress");
  const next = planOf(kernel, "a wall@host", 2);
  assert.equal(
    changesBetween(recordOf(kernel), next).map(({ direction, at, program, change }) => [
      direction,
      at,
      program,
      change,
    ]),
    [
      ["ingress", "pod", "wall", "changed"],
      ["egress", "pod", "wall", "removed"],
      ["egress", "host", "wall", "added"],
    ],
  );
  replace(kernel, next, recordOf(kernel));
  assert.is(bucket("egress"), undefined);
  assert.is(bucket("host"), before);
});

test("status: on egress, behind the pod's own, where it stands; its ingress side stands in the pod", () => {
  const kernel = machine();
  attach(kernel, planOf(kernel, "wall@host a"));
  kernel.count(pins.direction(1, "host").counters, 0, {
    [counterLayout.headPackets]: 7,
    [counterLayout.endings + endings.indexOf("shot")]: 5,
  });
  const [status] = listAttachments(kernel, bpffs);
  assert.equal(
    status?.egress.map(({ program, at, packets, ended }) => [program, at, packets, ended.shot]),
    [
      ["a", "pod", 0, 0],
      ["wall", "host", 7, 5],
    ],
  );
  assert.equal(
    status?.ingress.map(({ program, at }) => [program, at]),
    [
      ["wall", "pod"],
      ["a", "pod"],
    ],
  );
});

test("CHECK: the host's end and what is attached there", () => {
  const differs = (words: RegExp, act: (kernel: FakeKernel) => void): void => {
    const kernel = machine();
    attach(kernel, planOf(kernel, "a wall@host"));
    act(kernel);
    const error = caught(() => check(kernel, bpffs, id, netns));
    assert.instance(error, RemoraError, String(error));
    assert.is((error as RemoraError).code, code.attachmentDiffers);
    assert.match((error as RemoraError).message, words);
  };
  const path = pins.link("host");
  differs(/the host link is missing/, (kernel) => kernel.removePin(path));
  differs(/the host link is detached/, (kernel) => {
    const { fd } = kernel.openPin(path);
    kernel.detachLink(fd);
    kernel.close(fd);
  });
  differs(/the host link is attached to interface index \d+, the record says \d+/, (kernel) => {
    const { fd } = kernel.openPin(pins.link("ingress"));
    kernel.removePin(path);
    kernel.pin(fd, path);
    kernel.close(fd);
  });
  differs(/the host chain is missing/, (kernel) => kernel.removePin(pins.direction(1, "host").chain));
  differs(/the host's end of eth0 \(host-eth0\) is not there any more: eth0 is a macvlan/, (kernel) => {
    kernel.withoutPeers = "macvlan";
  });
});

test("a settle does not attach where another host's end is by now: an ADD that died before it got there is taken back", () => {
  for (const withoutPeers of [undefined, "macvlan"]) {
    const kernel = machine();
    attach(kernel, planOf(kernel, "a wall@host"));
    const record = recordOf(kernel);
    kernel.removePin(pins.link("host"));
    kernel.renamePin(pins.record, pins.nextRecord);
    kernel.withoutPeers = withoutPeers;
    const what = settle(kernel, pins) ?? "";
    if (withoutPeers === undefined) {
      assert.match(what, /^an interrupted ADD was completed/);
      assert.equal(recordOf(kernel), record);
      assert.equal(chains(kernel), states["a wall@host"]);
    } else {
      assert.match(what, /^an interrupted ADD was taken back: .*macvlan/);
      assert.equal(kernel.left(), []);
    }
  }
});

for (const [from, to] of [
  ["a wall", "a wall@host"],
  ["a wall@host", "a wall"],
  ["a wall b@host", "a b@host wall@host"],
  ["a b@host wall@host", "a wall b@host"],
] as const)
  test(`from "${from}" to "${to}": what moves is missing at no moment, nor when the change dies and is settled`, () => {
    for (let nth = 1; ; nth++) {
      const kernel = machine();
      attach(kernel, planOf(kernel, from));
      const stands = (operation: string): void => {
        const [, egress = "", host = ""] = chains(kernel);
        assert.match(`${egress} ${host}`, /wall/, `${nth}, before ${operation}`);
      };
      kernel.interfere = stands;
      kernel.crashAt(nth);
      caught(() => replace(kernel, planOf(kernel, to, 2), recordOf(kernel)));
      const done = !kernel.dead;
      kernel.restart();
      settle(kernel, pins);
      stands("the end");
      kernel.interfere = undefined;
      check(kernel, bpffs, id, netns);
      if (done) break;
    }
  });

/** Somebody's program on ingress of the host's end, before all who are there. */
function strangerFirst(kernel: FakeKernel): void {
  const { ifindex } = kernel.findPeer(netns, id.ifname);
  const map = (name: string, type: "prog_array" | "percpu_array", valueSize: number) =>
    kernel.createMap({ type, name, keySize: 4, valueSize, maxEntries: 1 });
  const stage = kernel.loadStage({
    object: kernel.object("stranger", { programs: [{ name: "handle" }] }),
    name: "stranger",
    entries: [{ function: "handle", parameters: [] }],
    position: 0,
    length: 1,
    proceedOn: [-1],
    failurePolicy: "open",
    chain: map("theirs", "prog_array", 4),
    counters: map("their_counters", "percpu_array", 120),
    countHead: false,
    reuse: [],
  });
  const link = kernel.attachTcx({
    program: stage.program,
    netns: undefined,
    ifindex,
    direction: "ingress",
    before: true,
  });
  kernel.makeDirectory("/sys/fs/bpf/theirs");
  kernel.pin(link, "/sys/fs/bpf/theirs/link");
  kernel.pin(stage.program, "/sys/fs/bpf/theirs/program");
}
const atHost = (kernel: FakeKernel): string[] => {
  const { ifindex } = kernel.findPeer(netns, id.ifname);
  return kernel.listTcx({ netns: undefined, ifindex, direction: "ingress" }).map(({ name }) => name);
};

test("who comes before the chain at the host's end is named by CHECK and status, and a change takes the place again", () => {
  const kernel = machine();
  attach(kernel, planOf(kernel, "a wall@host"));
  strangerFirst(kernel);
  assert.equal(atHost(kernel), ["stranger", "wall"]);
  const error = caught(() => check(kernel, bpffs, id, netns)) as RemoraError;
  assert.is(error.code, code.attachmentDiffers);
  assert.match(error.message, /on ingress of host-eth0: stranger \(id \d+\) was attached before it, .*remora apply/);
  const [status] = listAttachments(kernel, bpffs);
  assert.equal(
    status?.behind?.map(({ direction, at, programs }) => [direction, at, programs.length]),
    [["egress", "host", 1]],
  );
  const link = kernel.tamper(pins.link("host"));
  assert.not(isAsPlanned(kernel, planOf(kernel, "a wall@host", 2), recordOf(kernel)));
  replace(kernel, planOf(kernel, "a wall@host", 2), recordOf(kernel));
  check(kernel, bpffs, id, netns);
  assert.equal(atHost(kernel), ["wall", "stranger"]);
  assert.is.not(kernel.tamper(pins.link("host")), link);
  assert.not("behind" in (listAttachments(kernel, bpffs)[0] ?? {}));
  assert.not(kernel.files().includes(pins.nextLink));
});

test("a chain of Remora's own before another's is nothing to complain of", () => {
  const kernel = machine();
  attach(kernel, planOf(kernel, "a wall@host"));
  attach(kernel, { ...planOf(kernel, "a wall@host"), id: { ...id, network: "manual" } });
  assert.equal(atHost(kernel), ["wall", "wall"]);
  check(kernel, bpffs, id, netns);
  // What cannot be read of a third one is its own matter.
  const third = { ...id, containerId: "third" };
  attach(kernel, { ...planOf(kernel, "a"), id: third });
  let failed = 0;
  kernel.interfere = (operation) => {
    if (!operation.includes(pinsOf(bpffs, third).link("ingress"))) return;
    kernel.failAt(0, "ENOMEM");
    failed++;
  };
  check(kernel, bpffs, id, netns);
  assert.ok(failed > 0);
});

test("a change that takes its place again, killed at whichever operation: gc leaves one link, and it is the first", () => {
  const begin = (): FakeKernel => {
    const kernel = machine();
    attach(kernel, planOf(kernel, "a wall@host"));
    strangerFirst(kernel);
    return kernel;
  };
  const change = (kernel: FakeKernel): void => void replace(kernel, planOf(kernel, "a wall@host", 2), recordOf(kernel));
  const seen = new Set<string>();
  for (let nth = 1; ; nth++) {
    const kernel = begin();
    kernel.crashAt(nth);
    caught(() => change(kernel));
    if (!kernel.dead) break;
    kernel.restart();
    seen.add(atHost(kernel).join());
    assert.equal(collect(kernel, bpffs, { now: kernel.clock }).failed, []);
    const now = atHost(kernel);
    const { generation } = recordOf(kernel);
    assert.equal(now, generation === 1 ? ["stranger", "wall"] : ["wall", "stranger"], `operation ${nth}`);
    if (generation === 2) check(kernel, bpffs, id, netns);
    assert.not(kernel.files().includes(pins.nextLink), `operation ${nth}`);
    detach(kernel, bpffs, id);
    assert.equal(atHost(kernel), ["stranger"], `operation ${nth}`);
  }
  assert.ok(seen.has("wall,stranger,wall"), [...seen].join("; "));
});

test("a change that takes its place again and fails at whichever operation leaves one link, and none under the other name", () => {
  for (let nth = 1, ended = false; !ended; nth++) {
    const kernel = machine();
    attach(kernel, planOf(kernel, "a wall@host"));
    strangerFirst(kernel);
    kernel.failAt(nth, "EIO");
    const before = kernel.operations.length;
    const reported: unknown[] = [];
    const options = { report: (error: unknown) => void reported.push(error) };
    caught(() => replace(kernel, planOf(kernel, "a wall@host", 2), recordOf(kernel), options));
    ended = kernel.operations.length - before < nth;
    kernel.calm();
    const walls = atHost(kernel).filter((name) => name === "wall");
    assert.equal(walls, ["wall"], `operation ${nth}, ${kernel.operations[before + nth - 1]}: ${atHost(kernel)}`);
    assert.not(kernel.files().includes(pins.nextLink), `operation ${nth}`);
  }
});

test("gc takes what has lost its interface, with the host's end", () => {
  const kernel = machine();
  const wall = select(kernel, "wall", { directions: ["egress"], select: { at: "host" } });
  attach(kernel, plan(input(kernel, [wall])));
  kernel.clock += 10 ** 9;
  assert.equal(collect(kernel, bpffs, { now: kernel.clock }).removed, []);
  kernel.removeNamespace(netns);
  assert.is(collect(kernel, bpffs, { now: kernel.clock }).removed[0]?.reason, "its interface is gone");
  assert.equal(kernel.left(), []);
});

test.run();
