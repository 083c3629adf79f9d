// SPDX-License-Identifier: Apache-2.0
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { setTimeout as wait } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Chain, laboratory, type Member } from "./laboratory.ts";
import { ethernet, extension, ipv4, ipv6, type TcpFields, type Transport, tcp, udp, vlan } from "./packets.ts";
import { changesUnderLock } from "./parallel.ts";

const next = -1;
const shot = 2;

const outcomes = [
  ...["opened", "closed", "reset", "expired"],
  ...["refused_max", "refused_max_per_remote", "refused_new_per_second", "refused_new_per_second_per_remote"],
  "refused_no_room",
] as const;

/** `struct totals`, without what is 0: `2 opened by remote, 1 malformed`. */
function read(chain: Chain): string {
  const words = chain.members[0]?.totals("totals") ?? [];
  const name = (at: number) =>
    at < 2 * outcomes.length
      ? `${outcomes[at % outcomes.length]} by ${at < outcomes.length ? "remote" : "pod"}`
      : "malformed";
  return words
    .map((count, at) => ({ count, text: `${count} ${name(at)}` }))
    .filter(({ count }) => count > 0)
    .map(({ text }) => text)
    .join(", ");
}

const families = {
  IPv4: {
    remotes: ["192.0.2.1", "192.0.2.2"],
    wrap: (source: string, destination: string, transport: Transport) =>
      ethernet(ipv4({ source, destination }, transport)),
    pod: "10.0.0.2",
  },
  IPv6: {
    remotes: ["2001:db8::1", "2001:db8::2"],
    wrap: (source: string, destination: string, transport: Transport) =>
      ethernet(ipv6({ source, destination }, transport)),
    pod: "2001:db8:1::2",
  },
} as const;
type Family = keyof typeof families;

interface Line {
  /** Which of the two remotes, 0 unless said otherwise. */
  remote?: 0 | 1;
  port?: number;
  payload?: number;
}

/** A pod with the program in both directions, and what comes and goes there. True: it passed. */
function pod(params: Record<string, string>, family: Family = "IPv4", directions = ["ingress", "egress"]) {
  const lab = laboratory();
  const program = "conn-limit";
  const ingress = lab.chain([{ program, entry: "conn_limit_ingress", params }]);
  const member = ingress.members[0];
  if (!member) throw new Error("a chain of one has a member");
  const egress = lab.chain([{ program, entry: "conn_limit_egress", params, sharing: member }]);
  const { wrap, remotes, pod } = families[family];
  const passes = (verdict: number): boolean => {
    if (verdict !== next && verdict !== shot) throw new Error(`verdict ${verdict}`);
    return verdict === next;
  };
  const comes = (fields: TcpFields, { remote = 0, port = 40000, payload = 0 }: Line = {}): boolean => {
    const segment = tcp({ source: port, destination: 80, ...fields }, Buffer.alloc(payload));
    return !directions.includes("ingress") || passes(ingress.run(wrap(remotes[remote], pod, segment)));
  };
  const goes = (fields: TcpFields, { remote = 0, port = 40000, payload = 0 }: Line = {}): boolean => {
    const segment = tcp({ source: 80, destination: port, ...fields }, Buffer.alloc(payload));
    return !directions.includes("egress") || passes(egress.run(wrap(pod, remotes[remote], segment)));
  };
  return {
    lab,
    ingress,
    comes,
    goes,
    /** What has become of all of them so far. */
    told: () => read(ingress),
    /** The remote's SYN alone. */
    knocks: (line: Line = {}) => comes({ flags: "S", sequence: 1000 }, line),
    /** A handshake that the remote begins; the pod's numbers begin at 5000. */
    connects(line: Line = {}) {
      const passed = comes({ flags: "S", sequence: 1000 }, line);
      if (!passed) return false;
      goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 }, line);
      comes({ sequence: 1001, acknowledgement: 5001 }, line);
      return true;
    },
    /** The remote's FIN first, then the pod's. */
    closes(line: Line = {}) {
      comes({ flags: "FA", sequence: 1001, acknowledgement: 5001 }, line);
      goes({ flags: "FA", sequence: 5001, acknowledgement: 1002 }, line);
      comes({ sequence: 1002, acknowledgement: 5002 }, line);
    },
    [Symbol.dispose]: () => lab[Symbol.dispose](),
  };
}

test("without limits it takes itself out", () => {
  using it = pod({});
  assert.ok(it.connects());
  assert.is(it.told(), "");
});

for (const family of Object.keys(families) as Family[]) {
  test(`${family}: max: what is too much is refused until another is closed`, () => {
    using it = pod({ max: "2" }, family);
    assert.ok(it.connects({ port: 1 }));
    assert.ok(it.connects({ port: 2 }));
    assert.not.ok(it.knocks({ port: 3 }));
    assert.not.ok(it.knocks({ port: 3, remote: 1 }));
    it.closes({ port: 1 });
    assert.ok(it.knocks({ port: 3 }));
    assert.not.ok(it.knocks({ port: 4 }));
    assert.is(it.told(), "3 opened by remote, 1 closed by remote, 3 refused_max by remote");
  });

  test(`${family}: max_per_remote: one remote's are refused, another's are not`, () => {
    using it = pod({ max: "3", max_per_remote: "1" }, family);
    assert.ok(it.connects({ port: 1 }));
    assert.not.ok(it.knocks({ port: 2 }));
    assert.ok(it.connects({ port: 2, remote: 1 }));
    it.closes({ port: 1 });
    assert.ok(it.knocks({ port: 2 }));
    assert.is(it.told(), "3 opened by remote, 1 closed by remote, 1 refused_max_per_remote by remote");
  });

  test(`${family}: those the pod opens count apart, by their destination`, () => {
    using it = pod({ max_per_remote: "1" }, family);
    assert.ok(it.goes({ flags: "S" }, { port: 1 }));
    assert.not.ok(it.goes({ flags: "S" }, { port: 2 }));
    assert.ok(it.goes({ flags: "S" }, { port: 2, remote: 1 }));
    assert.ok(it.knocks({ port: 3 }));
    assert.is(it.told(), "1 opened by remote, 2 opened by pod, 1 refused_max_per_remote by pod");
  });
}

test("opened_by: the others are neither counted nor refused", () => {
  for (const { opened_by, told } of [
    { opened_by: "remote", told: "1 opened by remote, 1 refused_max by remote" },
    { opened_by: "pod", told: "1 opened by pod, 1 refused_max by pod" },
  ]) {
    using it = pod({ max: "1", opened_by });
    for (const port of [1, 2]) {
      it.knocks({ port });
      it.goes({ flags: "S" }, { port: port + 10 });
    }
    assert.is(it.told(), told);
  }
});

test("new_per_second: as many as the burst at once", () => {
  using it = pod({ new_per_second: "1", burst: "3" });
  const passed = [1, 2, 3, 4].map((port) => it.knocks({ port }));
  assert.equal(passed, [true, true, true, false]);
  assert.is(it.told(), "3 opened by remote, 1 refused_new_per_second by remote");
});

test("without a burst, as many at once as in a second", () => {
  using it = pod({ new_per_second: "2" });
  const passed = [1, 2, 3].map((port) => it.knocks({ port }));
  assert.equal(passed, [true, true, false]);
});

test("new_per_second_per_remote", () => {
  using it = pod({ new_per_second_per_remote: "1", new_per_second: "2" });
  assert.equal([it.knocks({ port: 1 }), it.knocks({ port: 2 })], [true, false]);
  assert.ok(it.knocks({ port: 1, remote: 1 }));
  assert.is(it.told(), "2 opened by remote, 1 refused_new_per_second_per_remote by remote");
});

test("what one limit refuses costs nothing of the others", () => {
  using it = pod({ max: "1", max_per_remote: "2", new_per_second_per_remote: "2", new_per_second: "50" });
  assert.ok(it.connects({ port: 1 }));
  for (const port of [2, 3, 4]) assert.not.ok(it.knocks({ port }));
  it.closes({ port: 1 });
  assert.ok(it.knocks({ port: 5 }));
  assert.is(it.told(), "2 opened by remote, 1 closed by remote, 3 refused_max by remote");
});

test("a connection counts once, whatever is sent twice", () => {
  using it = pod({ max: "2" });
  for (let i = 0; i < 5; i++) assert.ok(it.knocks());
  it.goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 });
  assert.ok(it.goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 }));
  assert.ok(it.knocks());
  assert.ok(it.knocks({ port: 2 }));
  assert.not.ok(it.knocks({ port: 3 }));
  assert.is(it.told(), "2 opened by remote, 1 refused_max by remote");
});

test("a simultaneous open is one connection", () => {
  using it = pod({ max: "1" });
  assert.ok(it.goes({ flags: "S", sequence: 5000 }));
  assert.ok(it.comes({ flags: "S", sequence: 1000 }));
  assert.ok(it.goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 }));
  assert.ok(it.comes({ flags: "SA", sequence: 1000, acknowledgement: 5001 }));
  assert.is(it.told(), "1 opened by pod");
});

test("a SYN with data is one as well", () => {
  using it = pod({ max: "1" });
  assert.ok(it.comes({ flags: "S", sequence: 1000 }, { payload: 100 }));
  it.goes({ flags: "SA", sequence: 5000, acknowledgement: 1101 });
  it.comes({ sequence: 1101, acknowledgement: 5001 });
  it.comes({ flags: "R", sequence: 1101 });
  assert.is(it.told(), "1 opened by remote, 1 reset by remote");
});

for (const { what, syn } of [
  { what: "an 802.1Q tag", syn: ethernet(vlan(7, ipv4({}, tcp({ flags: "S" })))) },
  { what: "IPv4 options", syn: ethernet(ipv4({ options: Buffer.alloc(8, 1) }, tcp({ flags: "S" }))) },
  { what: "extension headers", syn: ethernet(ipv6({}, extension("hopByHop", tcp({ flags: "S" }), 16))) },
])
  test(`a SYN behind ${what} counts`, () => {
    using it = pod({ max: "1" });
    assert.is(it.ingress.run(syn), next);
    assert.not.ok(it.knocks({ port: 2 }));
    assert.is(it.told(), "1 opened by remote, 1 refused_max by remote");
  });

// ---- how a connection ends ----

test("half-closed, it still counts", () => {
  using it = pod({ max: "1" });
  it.connects();
  it.comes({ flags: "FA", sequence: 1001, acknowledgement: 5001 });
  it.goes({ sequence: 5001, acknowledgement: 1002 }, { payload: 100 });
  it.comes({ sequence: 1002, acknowledgement: 5101 });
  assert.not.ok(it.knocks({ port: 2 }));
  it.goes({ flags: "FA", sequence: 5101, acknowledgement: 1002 });
  assert.not.ok(it.knocks({ port: 2 }), "the pod's FIN may be lost on its way");
  it.comes({ sequence: 1002, acknowledgement: 5102 });
  assert.ok(it.knocks({ port: 2 }));
});

test("both FINs at once", () => {
  using it = pod({ max: "1" });
  it.connects();
  it.comes({ flags: "FA", sequence: 1001, acknowledgement: 5001 });
  it.goes({ flags: "FA", sequence: 5001, acknowledgement: 1001 });
  it.comes({ sequence: 1002, acknowledgement: 5002 });
  it.goes({ sequence: 5002, acknowledgement: 1002 });
  assert.is(it.told(), "1 opened by remote, 1 closed by remote");
});

test("a FIN that the pod never acknowledges ends nothing", () => {
  using it = pod({ max: "1" });
  it.connects();
  it.comes({ flags: "FA", sequence: 900_000, acknowledgement: 5001 });
  it.goes({ sequence: 5001, acknowledgement: 1001 });
  it.goes({ flags: "FA", sequence: 5001, acknowledgement: 1001 });
  it.comes({ sequence: 1001, acknowledgement: 5002 });
  assert.not.ok(it.knocks({ port: 2 }));
});

for (const { what, reset, frees } of [
  { what: "the remote's, with what the pod waits for", reset: { from: "remote", sequence: 1001 }, frees: true },
  { what: "the remote's, too far ahead", reset: { from: "remote", sequence: 1002 }, frees: false },
  { what: "the remote's, old", reset: { from: "remote", sequence: 1000 }, frees: false },
  { what: "the pod's", reset: { from: "pod", sequence: 5001 }, frees: true },
] as const)
  test(`a reset: ${what}: ${frees ? "frees" : "does not free"}`, () => {
    using it = pod({ max: "1" });
    it.connects();
    const { from, sequence } = reset;
    if (from === "pod") it.goes({ flags: "R", sequence });
    else it.comes({ flags: "R", sequence });
    assert.is(it.knocks({ port: 2 }), frees);
  });

test("a reset behind data that is not yet acknowledged frees", () => {
  using it = pod({ max: "1" });
  it.connects();
  it.comes({ sequence: 1001, acknowledgement: 5001 }, { payload: 50 });
  it.comes({ flags: "R", sequence: 1051 });
  assert.is(it.told(), "1 opened by remote, 1 reset by remote");
});

test("so does one behind segments that came in another order", () => {
  using it = pod({ max: "1" });
  it.connects();
  it.comes({ sequence: 1051, acknowledgement: 5001 }, { payload: 50 });
  it.comes({ sequence: 1001, acknowledgement: 5001 }, { payload: 50 });
  it.goes({ sequence: 5001, acknowledgement: 1101 });
  it.comes({ flags: "R", sequence: 1101 });
  assert.is(it.told(), "1 opened by remote, 1 reset by remote");
});

test("a SYN that is refused by a reset frees, whoever sends it", () => {
  using it = pod({ max: "1" });
  it.knocks();
  it.goes({ flags: "RA", sequence: 0, acknowledgement: 1001 });
  it.goes({ flags: "S", sequence: 7000 }, { port: 2 });
  it.comes({ flags: "RA", sequence: 0, acknowledgement: 7001 }, { port: 2 });
  assert.is(it.told(), "1 opened by remote, 1 reset by remote, 1 opened by pod, 1 reset by pod");
});

test("the pod's reset of an ACK that was made up leaves a half-open connection counted", () => {
  using it = pod({ max: "1" });
  it.knocks();
  it.goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 });
  it.comes({ sequence: 1001, acknowledgement: 99 });
  it.goes({ flags: "R", sequence: 99 });
  assert.not.ok(it.knocks({ port: 2 }));
});

test("a port that is used again is a new connection", () => {
  using it = pod({ max: "1", new_per_second: "1", burst: "2" });
  it.connects();
  it.closes();
  assert.ok(it.connects());
  it.closes();
  assert.not.ok(it.knocks());
  assert.is(it.told(), "2 opened by remote, 2 closed by remote, 1 refused_new_per_second by remote");
});

test("connections older than the program pass and do not count", () => {
  using it = pod({ max: "1" });
  for (const port of [1, 2, 3]) {
    assert.ok(it.comes({ sequence: 1, acknowledgement: 1 }, { port, payload: 10 }));
    assert.ok(it.goes({ flags: "FA", sequence: 1, acknowledgement: 11 }, { port }));
  }
  assert.is(it.told(), "");
});

test("entered for ingress alone, a FIN of the remote is the end", () => {
  using it = pod({ max: "1" }, "IPv4", ["ingress"]);
  it.connects({ port: 1 });
  assert.not.ok(it.knocks({ port: 2 }));
  it.comes({ flags: "FA", sequence: 1001, acknowledgement: 5001 }, { port: 1 });
  assert.ok(it.knocks({ port: 2 }));
});

test("other packets are none of its business, and what cannot be read may not open a connection", () => {
  using it = pod({ max: "1" });
  assert.is(it.ingress.run(ethernet(ipv4({}, udp()))), next);
  assert.is(it.ingress.run(ethernet(ipv4({ fragment: { offset: 9, more: false } }, tcp({ flags: "S" })))), next);
  assert.is(it.told(), "");
  const half = { protocol: 6, bytes: tcp({ flags: "S" }).bytes.subarray(0, 8) };
  assert.is(it.ingress.run(ethernet(ipv4({ fragment: { offset: 0, more: true } }, half))), shot);
  assert.is(it.ingress.run(ethernet(ipv4({ ihl: 4 }, tcp({ flags: "S" })))), shot);
  assert.is(it.told(), "2 malformed");
});

// ---- time ----

test("what ends unseen is not counted for ever, and what goes on is", async () => {
  using half = pod({ max: "3", handshake_timeout: "1s" });
  using idle = pod({ max: "4", idle_timeout: "1s" });
  half.knocks({ port: 1 });
  // An ACK that does not know what the pod has answered.
  half.knocks({ port: 2 });
  half.goes({ flags: "SA", sequence: 5000, acknowledgement: 1001 }, { port: 2 });
  half.comes({ sequence: 1001, acknowledgement: 0x7fffffff }, { port: 2 });
  half.connects({ port: 3 });
  for (const port of [1, 2, 3, 4]) idle.connects({ port });
  await wait(700);
  idle.comes({ sequence: 1001, acknowledgement: 5001 }, { port: 1, payload: 10 });
  idle.goes({ sequence: 5001, acknowledgement: 1001 }, { port: 2, payload: 10 });
  assert.not.ok(half.knocks({ port: 10 }));
  assert.not.ok(idle.knocks({ port: 10 }));
  await wait(600);
  assert.equal(
    [10, 11, 12].map((port) => half.knocks({ port })),
    [true, true, false],
  );
  assert.is(half.told(), "5 opened by remote, 2 expired by remote, 2 refused_max by remote");
  assert.equal(
    [10, 11, 12].map((port) => idle.knocks({ port })),
    [true, true, false],
  );
  assert.is(idle.told(), "6 opened by remote, 2 expired by remote, 2 refused_max by remote");
});

// ---- several CPUs ----

test("several CPUs open and reset connections at once: what is counted is what is open", async () => {
  using it = pod({ max: "16384", max_per_remote: "16384", new_per_second: "1000000" });
  const { remotes, wrap, pod: own } = families.IPv4;
  const cycles = 6_000;
  const workers = Array.from({ length: 2 * availableParallelism() }, (_, index) => {
    const segment = (fields: TcpFields) => wrap(remotes[0], own, tcp({ source: 1000 + index, ...fields }));
    const packets = [segment({ flags: "S", sequence: 1000 }), segment({ flags: "R", sequence: 1001 })];
    const workerData = { program: it.ingress.head, packets, cycles };
    return new Worker(new URL("fixtures/cycles.ts", import.meta.url), { workerData });
  });
  const codes = await Promise.all(workers.map((worker) => once(worker, "exit")));
  assert.ok(codes.every(([code]) => code === 0));
  // A SYN is refused where another CPU has for a while been about to delete the remote's account.
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what} by remote`).exec(it.told())?.[1] ?? 0);
  const [opened, refused] = [count("opened"), count("refused_no_room")];
  assert.is(opened + refused, workers.length * cycles, it.told());
  assert.is(count("reset"), opened);
  assert.ok(refused < opened / 100, it.told());
  const map = (name: string) => {
    const { fd = -1 } = it.ingress.members[0]?.stage.maps.find((each) => each.name === name) ?? {};
    return it.lab.kernel.mapEntries(fd, 20_000).entries;
  };
  assert.equal(map("connections"), []);
  assert.equal(map("remotes"), []);
  assert.equal(
    map("pod").map(({ value }) => value.readUInt32LE(4)),
    [0, 0],
  );
});

for (const whose of ["pod", "remote"])
  test(`the ${whose}'s account is under its lock`, async () => {
    const params = { max: "16384", max_per_remote: "16384" };
    using it = pod(params);
    const [member] = it.ingress.members as [Member];
    const [program, entry] = ["conn-limit", "conn_limit_ingress"];
    // One stays, and the remote's account with it.
    it.knocks({ port: 1 });
    const { remotes, wrap, pod: own } = families.IPv4;
    const packet = wrap(remotes[0], own, tcp());
    const collision = { member, hold: `hold_${whose}`, knock: "knock_segment", packet, program, entry, params };
    assert.is(await changesUnderLock(it.lab, collision), 0);
    const count = (what: string) => Number(new RegExp(`(\\d+) ${what} by remote`).exec(it.told())?.[1] ?? 0);
    assert.ok(count("opened") >= 50 && count("reset") >= 50, it.told());
  });

// ---- memory ----

test("the tables: full, they refuse and say so; connections that come and go do not fill them", () => {
  using it = pod({ max_per_remote: "16384", max: "0" });
  // More than there are tickets, and each leaves one behind.
  for (let i = 0; i < 25_000; i++) {
    it.comes({ flags: "S", sequence: 1000 }, { port: 1 + (i % 60_000) });
    it.goes({ flags: "RA", sequence: 0, acknowledgement: 1001 }, { port: 1 + (i % 60_000) });
  }
  assert.is(it.told(), "25000 opened by remote, 25000 reset by remote");
  for (let port = 1; port <= 16_384; port++) it.knocks({ port });
  assert.is(it.told(), "41384 opened by remote, 25000 reset by remote");
  assert.not.ok(it.knocks({ port: 1, remote: 1 }));
  assert.is(it.told(), "41384 opened by remote, 25000 reset by remote, 1 refused_no_room by remote");
});

test.run();
