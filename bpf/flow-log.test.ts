// SPDX-License-Identifier: Apache-2.0
/** flow-log through prog_test_run: which record a packet belongs to, and what it adds there. */
import { setTimeout as wait } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { formatIpv4, formatIpv6 } from "../plugin/catalog/address.ts";
import { flowReader, type ReadOther } from "../plugin/flows/flow.ts";
import type { TestRunRequest } from "../plugin/kernel/port.ts";
import { laboratory } from "./laboratory.ts";
import {
  arp,
  discovery,
  ethernet,
  extension,
  fragment6,
  icmp,
  icmpv6,
  ipv4,
  ipv6,
  type Network,
  protocol,
  sctp,
  type TcpFields,
  type Transport,
  tcp,
  udp,
  vlan,
} from "./packets.ts";

const next = -1;
const families = {
  IPv4: { pod: "10.0.0.2", remote: "192.0.2.1", header: 20 },
  IPv6: { pod: "2001:db8:1::2", remote: "2001:db8::1", header: 40 },
} as const;
type Family = keyof typeof families;

interface Side {
  packets: number;
  bytes: number;
  ip_bytes: number;
  retransmissions: number;
  tcp_flags: number;
  next_sequence: number;
}
interface Flow {
  initiator: string;
  connections: number;
  first_seen: number;
  last_seen: number;
  syn_to_synack: number;
  synack_to_ack: number;
  ingress: Side;
  egress: Side;
}
interface Key {
  source: { bytes: number[] };
  destination: { bytes: number[] };
  source_port: number;
  destination_port: number;
  family: number;
  protocol: number;
}

const swapped = (port: number): number => ((port & 255) << 8) | (port >> 8);
const shown = (family: number, bytes: number[]): string =>
  family === 4 ? formatIpv4(Buffer.from(bytes.slice(12))) : formatIpv6(Buffer.from(bytes));

/** A pod with the program in both directions: packets come and go, flows are read. */
function pod(params: Record<string, string> = {}, family: Family = "IPv4") {
  const lab = laboratory();
  const program = "flow-log";
  const ingress = lab.chain([{ program, entry: "flow_log_ingress", params }]);
  const [member] = ingress.members;
  if (!member) throw new Error("a chain of one has a member");
  const egress = lab.chain([{ program, entry: "flow_log_egress", params, sharing: member }]);
  const { pod, remote } = families[family];
  const wrap = (source: string, destination: string, payload: Transport): Network =>
    family === "IPv4" ? ipv4({ source, destination }, payload) : ipv6({ source, destination }, payload);
  return {
    comes: (payload: Transport, context?: TestRunRequest["context"]) =>
      assert.is(ingress.run(ethernet(wrap(remote, pod, payload)), context), next),
    goes: (payload: Transport, context?: TestRunRequest["context"]) =>
      assert.is(egress.run(ethernet(wrap(pod, remote, payload)), context), next),
    frame: (direction: "ingress" | "egress", frame: Buffer, context?: TestRunRequest["context"]) =>
      assert.is((direction === "ingress" ? ingress : egress).run(frame, context), next),
    /** By `POD:PORT REMOTE:PORT PROTOCOL`, whichever way it went. */
    flows(): Record<string, Flow> {
      const rows = member.contents("flows").map(({ key, value }) => {
        const { source, destination, source_port, destination_port, ...of } = key as unknown as Key;
        const end = ({ bytes }: { bytes: number[] }, port: number) => `${shown(of.family, bytes)}:${swapped(port)}`;
        return [
          `${end(source, source_port)} ${end(destination, destination_port)} ${of.protocol}`,
          value as unknown as Flow,
        ] as const;
      });
      return Object.fromEntries(rows);
    },
    /** The only one. */
    flow(): Flow {
      const all = Object.entries(this.flows());
      assert.is(all.length, 1, all.map(([name]) => name).join(", "));
      return all[0]?.[1] as Flow;
    },
    /** What is not 0: `2 logged ingress, 1 created ingress`. */
    counts(): string {
      const [both] = member.contents("counts").map(({ value }) => value as Record<string, Record<string, number>>);
      return Object.entries(both ?? {})
        .flatMap(([direction, counts]) =>
          Object.entries(counts).map(([name, n]) => ({ n, text: `${name} ${direction}` })),
        )
        .filter(({ n }) => n > 0)
        .map(({ n, text }) => `${n} ${text}`)
        .join(", ");
    },
    [Symbol.dispose]: () => lab[Symbol.dispose](),
  };
}
const onlySide = ({ packets, bytes, ip_bytes }: Side) => [packets, bytes, ip_bytes];

// ---- which record ----------------------------------------------------------------------------------------------

for (const [family, { pod: here, remote, header }] of Object.entries(families)) {
  test(`${family}: both directions of a connection are one record, from the pod's side`, () => {
    using it = pod({}, family as Family);
    const payload = Buffer.alloc(100);
    it.goes(tcp({ source: 40000, destination: 443 }, payload));
    it.comes(tcp({ source: 443, destination: 40000 }));
    it.goes(udp({ source: 40000, destination: 443 }, payload));
    const flows = it.flows();
    assert.equal(Object.keys(flows).sort(), [`${here}:40000 ${remote}:443 17`, `${here}:40000 ${remote}:443 6`].sort());
    const flow = flows[`${here}:40000 ${remote}:443 6`];
    assert.ok(flow);
    assert.equal(onlySide(flow.egress), [1, 14 + header + 20 + 100, header + 20 + 100]);
    assert.equal(onlySide(flow.ingress), [1, 14 + header + 20, header + 20]);
    assert.is(flow.initiator, "REMORA_EGRESS");
    assert.ok(flow.first_seen > 0 && flow.last_seen > flow.first_seen);
    assert.is(it.counts(), "1 logged ingress, 2 logged egress, 2 created egress");
  });
}

interface Row {
  what: string;
  direction?: "egress";
  packet: Buffer;
  /** Its key, `POD:PORT REMOTE:PORT PROTOCOL`; none: it is in no record. */
  flow?: string;
  counts?: string;
}
const options = Buffer.alloc(40, 1);
const later = (payload: Transport) => ipv4({ fragment: { offset: 9, more: true } }, payload);
const whole = { fragment: { offset: 0, more: true } };
const six = (left: number, right: number, number: number) => `2001:db8::2:${left} 2001:db8::1:${right} ${number}`;
const rows: Row[] = [
  { what: "IPv4 with options", packet: ethernet(ipv4({ options }, udp())), flow: "10.0.0.2:53 10.0.0.1:40000 17" },
  { what: "SCTP", packet: ethernet(ipv4({}, sctp())), flow: "10.0.0.2:3868 10.0.0.1:40000 132" },
  { what: "a protocol without ports", packet: ethernet(ipv4({}, protocol(47))), flow: "10.0.0.2:0 10.0.0.1:0 47" },
  { what: "a first fragment", packet: ethernet(ipv4(whole, udp())), flow: "10.0.0.2:53 10.0.0.1:40000 17" },
  { what: "a later fragment has no ports", packet: ethernet(later(udp())), flow: "10.0.0.2:0 10.0.0.1:0 17" },
  { what: "a later fragment of TCP", packet: ethernet(later(tcp())), flow: "10.0.0.2:0 10.0.0.1:0 6" },
  {
    what: "a later IPv6 fragment",
    packet: ethernet(ipv6({}, fragment6({ offset: 9, more: false }, udp()))),
    flow: six(0, 0, 17),
  },
  {
    what: "IPv6 extension headers",
    packet: ethernet(ipv6({}, extension("hopByHop", extension("routing", tcp(), 24)))),
    flow: six(80, 40000, 6),
  },
  { what: "a tag in the packet", packet: ethernet(vlan(7, ipv4({}, tcp()))), flow: "10.0.0.2:80 10.0.0.1:40000 6" },
  {
    what: "two tags, on egress",
    direction: "egress",
    packet: ethernet(vlan(7, vlan(8, ipv6({}, tcp())), 0x88a8)),
    flow: "2001:db8::1:40000 2001:db8::2:80 6",
  },
  { what: "an echo request received", packet: ethernet(ipv4({}, icmp(8))), flow: "10.0.0.2:2048 10.0.0.1:0 1" },
  {
    what: "the reply to it",
    direction: "egress",
    packet: ethernet(ipv4({ source: "10.0.0.2", destination: "10.0.0.1" }, icmp(0))),
    flow: "10.0.0.2:2048 10.0.0.1:0 1",
  },
  {
    what: "an echo request sent",
    direction: "egress",
    packet: ethernet(ipv4({}, icmp(8))),
    flow: "10.0.0.1:0 10.0.0.2:2048 1",
  },
  { what: "an IPv6 echo reply received", packet: ethernet(ipv6({}, icmpv6(129))), flow: six(0, 128 << 8, 58) },
  { what: "an IPv6 echo request received", packet: ethernet(ipv6({}, icmpv6(128))), flow: six(128 << 8, 0, 58) },
  {
    what: "destination unreachable, administratively prohibited",
    packet: ethernet(ipv6({}, icmpv6(1, 1))),
    flow: six((1 << 8) | 1, 0, 58),
  },
  {
    what: "neighbour discovery",
    packet: ethernet(ipv6({ hopLimit: 255 }, icmpv6(discovery.solicitation))),
    flow: six(135 << 8, 0, 58),
  },
  { what: "ARP", packet: ethernet(arp()), counts: "1 not_ip ingress" },
  {
    what: "a header cut short, on egress",
    direction: "egress",
    packet: ethernet(vlan(7, ipv4({}, tcp()))).subarray(0, 34),
    counts: "1 malformed egress",
  },
];
for (const { what, direction = "ingress", packet, flow, counts } of rows)
  test(`${what}: ${flow ?? counts}`, () => {
    using it = pod();
    it.frame(direction, packet);
    assert.equal(Object.keys(it.flows()), flow ? [flow] : []);
    assert.is(it.counts(), counts ?? `1 logged ${direction}, 1 created ${direction}`);
    if (flow) assert.is(it.flow()[direction].bytes, packet.length);
  });

// ---- what it adds ----------------------------------------------------------------------------------------------

test("a GSO packet counts as its segments, with a header each", () => {
  for (const [family, { header }] of Object.entries(families)) {
    using it = pod({}, family as Family);
    const payload = Buffer.alloc(3000);
    it.goes(tcp({}, payload), { gsoSegs: 3, gsoSize: 1000, wireLen: 3000 + 3 * (14 + header + 20) });
    assert.equal(onlySide(it.flow().egress), [3, 3000 + 3 * (14 + header + 20), 3000 + 3 * (header + 20)]);
  }
});

test("what pads a frame is no IP bytes", () => {
  using it = pod();
  it.frame("ingress", Buffer.concat([ethernet(ipv4({}, udp())), Buffer.alloc(14)]));
  assert.equal(onlySide(it.flow().ingress), [1, 60, 32]);
});

test("an IP length that is a lie harms nobody", () => {
  for (const length of [0, 1, 65535]) {
    using it = pod();
    const frame = ethernet(ipv4({}, tcp()));
    frame.writeUInt16BE(length, 16);
    it.frame("ingress", frame, { gsoSegs: 3, gsoSize: 1000, wireLen: 60 });
    assert.is(it.flow().ingress.packets, 3);
    assert.ok(it.flow().ingress.ip_bytes <= it.flow().ingress.bytes);
  }
});

test("flags of both directions gather", () => {
  using it = pod();
  for (const flags of ["S", "A", "FA"]) it.goes(tcp({ flags }));
  it.comes(tcp({ source: 80, destination: 40000, flags: "RUEC" }));
  const { ingress, egress } = it.flow();
  assert.equal([egress.tcp_flags, ingress.tcp_flags], [0x13, 0xe4]);
});

test("without `tcp`, TCP is counted and not followed", () => {
  using it = pod({ tcp: "false" });
  for (let again = 0; again < 2; again++) it.goes(tcp({ flags: "S", sequence: 5 }));
  const { connections, egress } = it.flow();
  assert.equal([connections, egress.packets, egress.tcp_flags, egress.retransmissions], [0, 2, 0, 0]);
});

/** A conversation: `>` goes, `<` comes; then flags, sequence number, payload. */
function play(it: ReturnType<typeof pod>, script: string): void {
  for (const [way, flags, sequence = "0", payload = "0"] of script.split(/,\s*/).map((line) => line.split(" "))) {
    const fields: TcpFields = { flags: flags ?? "", sequence: Number(sequence) };
    if (way === ">") it.goes(tcp({ source: 40000, destination: 80, ...fields }, Buffer.alloc(Number(payload))));
    else it.comes(tcp({ source: 80, destination: 40000, ...fields }, Buffer.alloc(Number(payload))));
  }
}

const handshake = "> S 100, < SA 900, > A 101";
for (const { what, script, connections = 1, initiator = "REMORA_EGRESS", measured } of [
  { what: "where the pod connects", script: handshake, measured: [true, true] },
  {
    what: "where the pod accepts",
    script: "< S 100, > SA 900, < A 101",
    initiator: "REMORA_INGRESS",
    measured: [true, true],
  },
  { what: "before its end", script: "> S 100, < SA 900", measured: [true, false] },
  { what: "that is refused", script: "> S 100, < RA 0", measured: [false, false] },
  { what: "whose SYN was sent twice", script: "> S 100, > S 100, < SA 900, > A 101", measured: [false, true] },
  { what: "whose SYN/ACK was sent twice", script: "> S 100, < SA 900, < SA 900, > A 101", measured: [true, false] },
  { what: "with data at once", script: "> S 100, < SA 900, > PA 101 50, > A 151", measured: [true, true] },
  {
    what: "after another from the same ports",
    script: `${handshake}, > FA 101, < FA 901, > A 102, > S 5000, < SA 7000`,
    connections: 2,
    measured: [true, false],
  },
  {
    what: "that was not seen",
    script: "< PA 900 10, > A 100",
    connections: 0,
    initiator: "REMORA_INGRESS",
    measured: [false, false],
  },
] as const)
  test(`a handshake ${what}: ${measured.map((seen) => (seen ? "measured" : "not measured")).join(", ")}`, () => {
    using it = pod();
    const before = process.hrtime.bigint();
    play(it, script);
    const took = Number(process.hrtime.bigint() - before);
    const flow = it.flow();
    assert.equal([flow.connections, flow.initiator], [connections, initiator]);
    const times = [flow.syn_to_synack, flow.synack_to_ack];
    assert.equal(
      times.map((time) => time > 0 && time < took),
      [...measured],
      String(times),
    );
  });

test("the two halves of a handshake are told apart", async () => {
  using it = pod();
  const at = () => Number(process.hrtime.bigint());
  const times: number[][] = [];
  for (const [line, pause] of [
    ["> S 100", 40],
    ["< SA 900", 20],
    ["> A 101", 0],
  ] as const) {
    const before = at();
    play(it, line);
    times.push([before, at()]);
    await wait(pause);
  }
  const { syn_to_synack, synack_to_ack, first_seen, last_seen } = it.flow();
  const [syn = [], synack = [], ack = []] = times;
  const within = (value: number, [before = 0]: number[], [, after = 0]: number[]) => value >= before && value <= after;
  const span = ([, from = 0]: number[], [to = 0]: number[]) => to - from;
  assert.ok(syn_to_synack >= span(syn, synack) && syn_to_synack <= (synack[1] ?? 0) - (syn[0] ?? 0));
  assert.ok(synack_to_ack >= span(synack, ack) && synack_to_ack <= (ack[1] ?? 0) - (synack[0] ?? 0));
  assert.ok(within(first_seen, syn, syn) && within(last_seen, ack, ack), "on the clock of process.hrtime");
});

for (const { what, script, gso, again } of [
  { what: "in order", script: `${handshake}, > A 101 100, > A 201 100`, again: [0, 0] },
  { what: "a segment twice", script: `${handshake}, > A 101 100, > A 101 100`, again: [0, 1] },
  { what: "received twice", script: `${handshake}, < A 901 100, < A 901 100, < A 901 100`, again: [2, 0] },
  {
    what: "a part again, with more behind it",
    script: `${handshake}, > A 101 100, > A 151 100, > A 251 1`,
    again: [0, 1],
  },
  { what: "a hole filled later", script: `${handshake}, > A 101 100, > A 301 100, > A 201 100`, again: [0, 1] },
  { what: "acknowledgements alone", script: `${handshake}, > A 101, > A 101, > A 50`, again: [0, 0] },
  { what: "a SYN twice", script: "> S 100, > S 100", again: [0, 1] },
  { what: "a FIN twice", script: `${handshake}, > FA 101, > FA 101`, again: [0, 1] },
  { what: "a reset below", script: `${handshake}, > A 101 100, > R 101`, again: [0, 0] },
  { what: "a reset below, with its reason", script: `${handshake}, > A 101 100, > R 101 50`, again: [0, 0] },
  {
    what: "another connection, where the one end begins with the same number",
    script: `${handshake}, < A 901 100, > S 50, < SA 900, < A 901 100`,
    again: [0, 0],
  },
  { what: "around 2^32", script: "> A 4294967290 100, > A 94 100, > A 4294967290 100, > A 194 1", again: [0, 1] },
  { what: "a connection seen from its middle", script: "> A 7000 100, > A 7100 100, > A 7000 100", again: [0, 1] },
  {
    what: "another connection from the same ports begins anew",
    script: `${handshake}, > A 101 1000, < A 901 1000, > S 50, < SA 60, > A 51 100, < A 61 100`,
    again: [0, 0],
  },
  { what: "a GSO packet, of which two segments are old", script: "> A 0 2000", gso: "> A 0 3000", again: [0, 2] },
  { what: "a GSO packet, of which two and a bit are old", script: "> A 0 2001", gso: "> A 0 3000", again: [0, 3] },
  { what: "a GSO packet that is all old", script: "> A 0 3500", gso: "> A 0 3000", again: [0, 3] },
])
  test(`sent again, ${what}: ${again}`, () => {
    using it = pod();
    play(it, script);
    if (gso) {
      const payload = Buffer.alloc(3000);
      it.goes(tcp({ source: 40000, destination: 80, sequence: 0 }, payload), { gsoSegs: 3, gsoSize: 1000 });
    }
    const { ingress, egress } = it.flow();
    assert.equal([ingress.retransmissions, egress.retransmissions], again);
  });

// ---- what became of a packet -----------------------------------------------------------------------------------

test("what a later program drops is told of its flow, what an earlier one drops or the flow's packets that pass are not", () => {
  using lab = laboratory();
  const acl = (rules: string) => ({ program: "acl", entry: "acl_egress", params: { rules } });
  const log = { program: "flow-log", entry: "flow_log_egress" };
  const chain = lab.chain([acl("deny tcp any 81"), log, acl("deny udp any 9 ; deny tcp any 82"), acl("deny icmp")]);
  const goes = (payload: Transport, context?: TestRunRequest["context"]) =>
    chain.run(ethernet(ipv4({}, payload)), context);
  for (const [payload, verdict, context] of [
    [udp({ destination: 9 }), 2],
    [udp({ destination: 10 }), next],
    [udp({ destination: 9 }), 2],
    [tcp({ destination: 81 }), 2],
    [udp({ destination: 10 }), next],
    [tcp({ destination: 82 }, Buffer.alloc(3000)), 2, { gsoSegs: 3, gsoSize: 1000 }],
    [tcp({ destination: 81 }), 2],
    [icmp(), 2],
    [udp({ destination: 9 }), 2],
  ] as const)
    assert.is(goes(payload, context), verdict);
  // Neither is in a record, and the drop of the one is not taken for the last one's above.
  assert.is(chain.run(ethernet(arp())), next);

  const maps = new Map(chain.members[1]?.stage.maps.map(({ name, fd }) => [name, fd]));
  const other: ReadOther = (name, read) => read(maps.get(name) ?? -1);
  const flows = flowReader(lab.kernel, maps.get("flows") ?? -1, (time) => time, other)();
  const told = flows.map(({ protocol, remote, sent, received, droppedBy }) => {
    assert.is(received.dropped, 0);
    return [protocol, remote.port, sent.packets, sent.dropped, droppedBy];
  });
  const order = (row: unknown[]): string => row.join(" ");
  assert.equal(
    told.sort((a, b) => order(a).localeCompare(order(b))),
    [
      [1, 8 << 8, 1, 1, "acl"],
      [17, 10, 2, 0, ""],
      [17, 9, 3, 3, "acl"],
      [6, 82, 3, 3, "acl"],
    ],
  );
});

// ---- limits ----------------------------------------------------------------------------------------------------

test("more flows than there is room for: the oldest go, what was made is counted", () => {
  using it = pod();
  const [room, made] = [8192, 12_000];
  const address = (n: number) => `10.${1 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}`;
  const goes = (n: number) => it.frame("egress", ethernet(ipv4({ destination: address(n) }, udp())));
  for (let n = 0; n < made; n++) goes(n);
  const left = new Set(Object.keys(it.flows()));
  assert.ok(left.size <= room && left.size > room / 2, `${left.size} flows`);
  assert.is(it.counts(), `${made} logged egress, ${made} created egress`);
  const there = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, n) => left.has(`10.0.0.1:40000 ${address(from + n)}:53 17`)).filter(Boolean)
      .length;
  // Roughly: each CPU that this process was on keeps a hundred or so for itself.
  assert.is(there(made - 1000, made), 1000, "the newest");
  assert.ok(there(0, 2000) < 500, `${there(0, 2000)} of the 2000 oldest`);
});

test.run();
