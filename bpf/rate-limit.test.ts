// SPDX-License-Identifier: Apache-2.0
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TestRunRequest } from "../plugin/kernel/port.ts";
import { type Chain, type Laboratory, laboratory } from "./laboratory.ts";
import { type RateVerdicts, readRateVerdicts } from "./layout.ts";
import { arp, ethernet, extension, ipv4, ipv6, other, tcp, udp, vlan } from "./packets.ts";

const next = -1;
const shot = 2;
const billion = 1_000_000_000n;

const limiter = (lab: Laboratory, params: Record<string, string>): Chain =>
  lab.chain([{ program: "rate-limit", entry: "rate_limit", params }]);

/** How many packets (with `bytes`, on the wire) had which end; those that none had are left out. */
function verdicts(chain: Chain): Partial<Record<keyof RateVerdicts, [packets: number, bytes: number]>> {
  const all = readRateVerdicts(chain.members[0]?.totals("verdicts") ?? []);
  const rows = Object.entries(all).map(([name, { packets, bytes }]) => [name, [packets, bytes]] as const);
  return Object.fromEntries(rows.filter(([, [packets]]) => packets > 0));
}

/** `struct limit`: a lock, then a bucket of three words for bits, and one for packets. */
function bucketsOf(lab: Laboratory, chain: Chain) {
  const { fd = -1 } = chain.members[0]?.stage.maps.find(({ name }) => name === "limit") ?? {};
  const read = (): Buffer => lab.kernel.lookupMap(fd, Buffer.alloc(4)) ?? Buffer.alloc(0);
  const bucket = (at: number) => ({
    get updated() {
      return read().readBigUInt64LE(at);
    },
    get used() {
      return read().readBigUInt64LE(at + 8);
    },
    set used(value: bigint) {
      const bytes = read();
      bytes.writeBigUInt64LE(value, at + 8);
      lab.kernel.updateMap(fd, Buffer.alloc(4), bytes);
    },
  });
  return {
    bits: bucket(8),
    packets: bucket(32),
    /** Lets both buckets take the next packet for one that comes so much later. */
    wait(seconds: number) {
      const bytes = read();
      // Before the machine was started, if need be: the program minds differences only.
      for (const at of [8, 32])
        bytes.writeBigUInt64LE(BigInt.asUintN(64, bytes.readBigUInt64LE(at) - BigInt(Math.round(seconds * 1e9))), at);
      lab.kernel.updateMap(fd, Buffer.alloc(4), bytes);
    },
  };
}

/** A frame of `length` bytes. */
const frame = (length: number): Buffer => ethernet(ipv4({}, udp({}, Buffer.alloc(length - 42))));
/** At a bit a second a bucket does not fill while a test runs. */
const slow = { rate: "1bit" };

/** Sends the packet so often; the verdicts, `+` for one that passed. */
const send = (chain: Chain, packet: Buffer, times: number, context?: TestRunRequest["context"]): string =>
  Array.from({ length: times }, () => (chain.run(packet, context) === next ? "+" : "-")).join("");

// ---- the bucket ------------------------------------------------------------------------------------------------

test("without a rate nothing is limited, nor counted", () => {
  using lab = laboratory();
  const chain = limiter(lab, { burst: "100", packet_burst: "1", mode: "ecn" });
  assert.is(send(chain, frame(1000), 5), "+++++");
  assert.equal(verdicts(chain), {});
});

test("a burst passes to its last byte, and not one more", () => {
  using lab = laboratory();
  const chain = limiter(lab, { ...slow, burst: "1000" });
  assert.is(send(chain, frame(100), 12), "++++++++++--");
  assert.equal(verdicts(chain), { conformed: [10, 1000], droppedByRate: [2, 200] });
  const another = limiter(lab, { ...slow, burst: "999" });
  assert.is(send(another, frame(100), 10), "+++++++++-");
  assert.is(send(another, frame(99), 2), "+-");
});

test("what the time brings is exact, and no more than the burst is saved", () => {
  using lab = laboratory();
  const chain = limiter(lab, { rate: "8bit", burst: "1000" });
  const buckets = bucketsOf(lab, chain);
  assert.is(send(chain, frame(500), 3), "++-");
  buckets.wait(498);
  assert.is(send(chain, frame(500), 1), "-");
  // What passed on the clock in the meantime is less than a second's worth.
  buckets.wait(2);
  assert.is(send(chain, frame(500), 2), "+-");
  buckets.wait(1e6);
  assert.is(send(chain, frame(500), 3), "++-");
});

test("a pace kept for a long time adds up to the rate, whatever a packet's part of it", () => {
  using lab = laboratory();
  // 7 bits in 3 ns and the like: a rounding of each step would show.
  for (const [rate, step] of [
    ["2333333333bit", 3e-9 * 47],
    ["999999937bit", 1e-9 * 53],
    ["3bit", 1 / 7],
  ] as const) {
    const chain = limiter(lab, { rate, burst: "1GB" });
    const buckets = bucketsOf(lab, chain);
    send(chain, frame(100), 1);
    // Seconds from empty and from full, so that nothing is lost at either end.
    buckets.bits.used = 7_900_000_000n * billion;
    const [used, updated] = [buckets.bits.used, buckets.bits.updated];
    let skipped = 0n;
    for (let round = 0; round < 50; round++) {
      const before = buckets.bits.updated;
      buckets.wait(step);
      skipped += before - buckets.bits.updated;
      send(chain, frame(100), 1);
    }
    const { conformed } = readRateVerdicts(chain.members[0]?.totals("verdicts") ?? []);
    const elapsed = buckets.bits.updated - updated + skipped;
    const perSecond = BigInt(rate.replace("bit", ""));
    assert.is(used + BigInt(8 * (conformed.bytes - 100)) * billion - elapsed * perSecond, buckets.bits.used, rate);
  }
});

test("packets are limited as bits are", () => {
  using lab = laboratory();
  const chain = limiter(lab, { packet_rate: "1", packet_burst: "3" });
  assert.is(send(chain, frame(1000), 5), "+++--");
  bucketsOf(lab, chain).wait(1);
  assert.is(send(chain, frame(60), 2), "+-");
  assert.equal(verdicts(chain), { conformed: [4, 3060], droppedByPacketRate: [3, 2060] });
});

test("a packet that one bucket refuses is charged to neither", () => {
  using lab = laboratory();
  const chain = limiter(lab, { ...slow, burst: "1100", packet_rate: "1", packet_burst: "6" });
  const { bits, packets } = bucketsOf(lab, chain);
  assert.is(send(chain, frame(400), 4), "++--");
  assert.ok(packets.used <= 2n * billion && packets.used > billion, "no third packet is charged");
  assert.is(send(chain, frame(50), 5), "++++-");
  assert.ok(bits.used <= 8000n * billion && bits.used > 7900n * billion, `${bits.used}`);
  assert.equal(verdicts(chain), {
    conformed: [6, 1000],
    droppedByRate: [2, 800],
    droppedByPacketRate: [1, 50],
  });
});

test("each segment of a GSO packet counts; the first has to fit, the rest is a debt", () => {
  using lab = laboratory();
  const chain = limiter(lab, { rate: "8bit", burst: "2000", packet_rate: "1", packet_burst: "10" });
  const buckets = bucketsOf(lab, chain);
  const gso = { gsoSegs: 40, gsoSize: 1448, wireLen: 60_560 };
  const packet = ethernet(ipv4({}, tcp({}, Buffer.alloc(3000))));
  assert.is(send(chain, packet, 2, gso), "+-");
  assert.is(send(chain, frame(60), 1), "-");
  assert.equal(verdicts(chain), { conformed: [40, 60_560], droppedByRate: [41, 60_620] });
  // 58560 bytes of debt, and 60 for the packet; the debt of 30 packets is long paid by then.
  buckets.wait(58_560 + 58);
  assert.is(send(chain, frame(60), 1), "-");
  buckets.wait(2);
  assert.is(send(chain, frame(60), 1), "+");
  assert.is(send(chain, packet, 1, gso), "-");
  buckets.wait(1514);
  assert.is(send(chain, packet, 1, gso), "+");
});

test("on ingress, where the kernel does not tell the headers of a GSO packet's segments, they count as well", () => {
  using lab = laboratory();
  const payload = Buffer.alloc(3000);
  // Without that of the link, whose length a test run cannot tell as a device does.
  for (const [packet, headers] of [
    [ethernet(ipv4({}, tcp({}, payload))), 20 + 20],
    [ethernet(ipv6({}, tcp({}, payload))), 40 + 20],
    [ethernet(vlan(7, ipv4({}, udp({}, payload)))), 4 + 20 + 8],
  ] as const) {
    const chain = limiter(lab, { ...slow, burst: "1MB" });
    assert.is(send(chain, packet, 1, { gsoSegs: 3, gsoSize: 1000 }), "+");
    assert.equal(verdicts(chain), { conformed: [3, packet.length + 2 * headers] });
  }
});

test("a packet larger than the burst passes a full bucket", () => {
  using lab = laboratory();
  const chain = limiter(lab, { rate: "8bit", burst: "100" });
  assert.is(send(chain, frame(1000), 2), "+-");
  bucketsOf(lab, chain).wait(999);
  assert.is(send(chain, frame(1000), 1), "-");
  bucketsOf(lab, chain).wait(1);
  assert.is(send(chain, frame(1000), 2), "+-");
});

for (const { rate, bytes } of [
  { rate: "8kbit", bytes: 10_000 },
  { rate: "1Mbit", bytes: 62_500 },
  { rate: "2.6Mbit", bytes: 162_500 },
  { rate: "5Mbit", bytes: 162_500 },
  { rate: "100Mbit", bytes: 3_125_000 },
  { rate: "1000Gbit", bytes: 1_000_000_000 },
])
  test(`the burst of ${rate} is ${bytes} bytes where none is given`, () => {
    using lab = laboratory();
    const chain = limiter(lab, { rate });
    send(chain, frame(60), 1);
    const map = chain.members[0]?.stage.maps.find(({ name }) => name === "limit");
    const capacity = lab.kernel.lookupMap(map?.fd ?? -1, Buffer.alloc(4))?.readBigUInt64LE(24);
    assert.is(capacity, BigInt(bytes * 8) * billion);
  });

test("what is no IP, or no good IP, is limited as well", () => {
  using lab = laboratory();
  for (const packet of [ethernet(arp()), ethernet(other()), ethernet(ipv4({ version: 5 }, tcp()))]) {
    const chain = limiter(lab, { packet_rate: "1", packet_burst: "2", mode: "ecn" });
    assert.is(send(chain, packet, 3), "++-");
    assert.equal(verdicts(chain), {
      conformed: [2, 2 * packet.length],
      droppedByPacketRate: [1, packet.length],
    });
  }
});

test("a bucket that is kept under new parameters keeps what is used, but no debt beyond the new burst", () => {
  using lab = laboratory();
  // A byte a second: the clock of the test does not matter.
  const parameters = (burst: string) => ({ rate: "8bit", burst });
  let before = limiter(lab, parameters("3000"));
  const again = (burst: string): Chain => {
    const sharing = before.members[0];
    before = lab.chain([{ program: "rate-limit", entry: "rate_limit", params: parameters(burst), sharing }]);
    return before;
  };
  const { wait } = bucketsOf(lab, before);
  assert.is(send(before, frame(1000), 4), "+++-");
  assert.is(send(again("5000"), frame(1000), 3), "++-");
  // Of the 5000 that are used, 2000 stay: it is full again after as many seconds.
  assert.is(send(again("2000"), frame(1000), 1), "-");
  wait(800);
  assert.is(send(before, frame(1000), 1), "-");
  wait(200);
  assert.is(send(before, frame(1000), 2), "+-");
  assert.equal(verdicts(before), { conformed: [6, 6000], droppedByRate: [5, 5000] });
});

// ---- several CPUs ----------------------------------------------------------------------------------------------

test("several CPUs take from one bucket, to the bit", async () => {
  using lab = laboratory();
  const perSecond = 200_000_000n;
  const chain = limiter(lab, { rate: `${perSecond}bit`, burst: "1GB" });
  const { bits } = bucketsOf(lab, chain);
  send(chain, frame(1000), 1);
  // Exhausted, so that there are packets of either kind from the beginning.
  bits.used = 8_000_000_000n * billion;
  const [used, updated] = [bits.used, bits.updated];
  const workers = Array.from(
    { length: 2 * availableParallelism() },
    () =>
      new Worker(new URL("fixtures/sender.ts", import.meta.url), {
        workerData: { program: chain.head, packet: frame(1000), runs: 200_000 },
      }),
  );
  await Promise.all(workers.map((worker) => once(worker, "exit")));
  const { conformed, droppedByRate } = readRateVerdicts(chain.members[0]?.totals("verdicts") ?? []);
  assert.ok(conformed.packets > 1000 && droppedByRate.packets > 1000, JSON.stringify({ conformed, droppedByRate }));
  const passed = BigInt(8 * (conformed.bytes - 1000)) * billion;
  assert.is(bits.used - used, passed - (bits.updated - updated) * perSecond);
});

// ---- ECN -------------------------------------------------------------------------------------------------------

const ect1 = 1;
const ect0 = 2;
const ce = 3;
/** DSCP AF41, which has to stay. */
const dscp = 34 << 2;

const envelopes: Record<string, (tos: number) => Buffer> = {
  IPv4: (tos) => ethernet(ipv4({ tos }, tcp())),
  "IPv4 with options": (tos) => ethernet(ipv4({ tos, options: Buffer.alloc(8, 1) }, tcp())),
  "a later IPv4 fragment": (tos) => ethernet(ipv4({ tos, fragment: { offset: 9, more: true } }, udp())),
  IPv6: (tos) => ethernet(ipv6({ tos, flowLabel: 0xabcde }, tcp())),
  "IPv6 with an extension header": (tos) => ethernet(ipv6({ tos }, extension("hopByHop", udp()))),
  "IPv4 behind a tag": (tos) => ethernet(vlan(7, ipv4({ tos }, tcp()))),
  "IPv6 behind two tags": (tos) => ethernet(vlan(7, vlan(8, ipv6({ tos }, udp())), 0x88a8)),
};

for (const [what, of] of Object.entries(envelopes))
  test(`ecn: ${what} is marked once half of the burst is used, and dropped at its end`, () => {
    using lab = laboratory();
    for (const ecn of [ect0, ect1, ce]) {
      const packet = of(dscp | ecn);
      const chain = limiter(lab, { ...slow, burst: String(4 * packet.length), mode: "ecn" });
      const passes = Array.from({ length: 5 }, () => chain.pass(packet));
      assert.equal(
        passes.map(({ verdict }) => verdict),
        [next, next, next, next, shot],
      );
      for (const [index, after] of passes.slice(0, 4).entries())
        assert.equal(after.packet, of(dscp | (index < 2 ? ecn : ce)), `ECN ${ecn}, packet ${index}`);
      assert.equal(verdicts(chain), {
        conformed: [2, 2 * packet.length],
        marked: [2, 2 * packet.length],
        droppedByRate: [1, packet.length],
      });
    }
  });

test("ecn: who does not know it has all of the burst, and losses", () => {
  using lab = laboratory();
  for (const of of Object.values(envelopes)) {
    const packet = of(dscp);
    const chain = limiter(lab, { packet_rate: "1", packet_burst: "4", mode: "ecn" });
    const passes = Array.from({ length: 5 }, () => chain.pass(packet));
    for (const after of passes) assert.equal(after.packet, packet);
    assert.equal(verdicts(chain), {
      conformed: [4, 4 * packet.length],
      droppedByPacketRate: [1, packet.length],
    });
  }
});

test("drop: nothing is ever marked", () => {
  using lab = laboratory();
  const packet = ethernet(ipv4({ tos: ect0 }, tcp()));
  const chain = limiter(lab, { packet_rate: "1", packet_burst: "2" });
  for (const after of [chain.pass(packet), chain.pass(packet)]) assert.equal(after.packet, packet);
  assert.equal(verdicts(chain), { conformed: [2, 2 * packet.length] });
});

test.run();
