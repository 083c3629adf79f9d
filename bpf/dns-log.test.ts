// SPDX-License-Identifier: Apache-2.0
/** dns-log through prog_test_run: what is written down of a query and its answer, and why not. */
import { setTimeout as wait } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TestRunRequest } from "../plugin/kernel/port.ts";
import { laboratory } from "./laboratory.ts";
import { ethernet, extension, fragment6, ipv4, ipv6, type Transport, tcp, udp, vlan } from "./packets.ts";

const next = -1;

// ---- DNS messages ----------------------------------------------------------------------------------------------

const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255]);

interface Header {
  id?: number;
  answer?: boolean;
  opcode?: number;
  truncated?: boolean;
  rcode?: number;
  questions?: number;
  answers?: number;
}
function header({ id = 1, answer = false, opcode = 0, truncated = false, rcode = 0, ...counts }: Header): Buffer {
  const { questions = 1, answers = 0 } = counts;
  const flags = (answer ? 0x80 : 0) | (opcode << 3) | (truncated ? 2 : 0) | 1;
  return Buffer.concat([u16(id), Buffer.from([flags, rcode]), ...[questions, answers, 0, 0].map(u16)]);
}

/** A name on the wire, of labels or of the usual text. */
function wire(name: string | Buffer[]): Buffer {
  const labels =
    typeof name === "string"
      ? name
          .split(".")
          .filter(Boolean)
          .map((label) => Buffer.from(label))
      : name;
  return Buffer.concat([...labels.flatMap((label) => [Buffer.from([label.length]), label]), Buffer.from([0])]);
}

const question = (name: string | Buffer[], type = 1, of = 1): Buffer => Buffer.concat([wire(name), u16(type), u16(of)]);
const query = (name: string | Buffer[], fields: Header & { type?: number; class?: number } = {}): Buffer =>
  Buffer.concat([header(fields), question(name, fields.type, fields.class)]);
const answer = (fields: Header = {}): Buffer =>
  Buffer.concat([header({ answer: true, answers: 1, ...fields }), question("example.org"), Buffer.alloc(16)]);

// ---- a pod -----------------------------------------------------------------------------------------------------

const families = {
  IPv4: {
    pod: "10.0.0.2",
    server: "10.0.0.53",
    wrap: (source: string, destination: string, payload: Transport) => ethernet(ipv4({ source, destination }, payload)),
  },
  IPv6: {
    pod: "2001:db8::2",
    server: "2001:db8::53",
    wrap: (source: string, destination: string, payload: Transport) => ethernet(ipv6({ source, destination }, payload)),
  },
} as const;

interface Transaction {
  sequence: number;
  asked: number;
  latency: number;
  flow: {
    source: { bytes: number[] };
    destination: { bytes: number[] };
    source_port: number;
    destination_port: number;
  };
  direction: string;
  queries: number;
  id: number;
  type: number;
  class: number;
  answers: number;
  rcode: number;
  answered: boolean;
  truncated: boolean;
  name: string;
}

function pod(params: Record<string, string> = {}, family: keyof typeof families = "IPv4") {
  const lab = laboratory();
  const program = "dns-log";
  const ingress = lab.chain([{ program, entry: "dns_log_ingress", params }]);
  const [member] = ingress.members;
  if (!member) throw new Error("a chain of one has a member");
  const egress = lab.chain([{ program, entry: "dns_log_egress", params, sharing: member }]);
  const { pod, server, wrap } = families[family];
  const server53 = { source: 40000, destination: 53 };
  const from53 = { source: 53, destination: 40000 };
  const it = {
    comes: (frame: Buffer, context?: TestRunRequest["context"]) => assert.is(ingress.run(frame, context), next),
    goes: (frame: Buffer, context?: TestRunRequest["context"]) => assert.is(egress.run(frame, context), next),
    /** The pod asks, and hears. */
    asks: (message: Buffer, ports = server53) => it.goes(wrap(pod, server, udp(ports, message))),
    hears: (message: Buffer, ports = from53) => it.comes(wrap(server, pod, udp(ports, message))),
    /** Another asks the pod, which tells. */
    asked: (message: Buffer) => it.comes(wrap(server, pod, udp(server53, message))),
    tells: (message: Buffer) => it.goes(wrap(pod, server, udp(from53, message))),
    /** In order. */
    transactions: (): Transaction[] =>
      member
        .contents("transactions")
        .map(({ value }) => value as unknown as Transaction)
        .filter(({ sequence }) => sequence > 0)
        .sort((a, b) => a.sequence - b.sequence),
    transaction(): Transaction {
      const [one, ...others] = it.transactions();
      assert.equal(others, []);
      if (!one) throw new Error("there is no transaction");
      return one;
    },
    /** What is not 0: `1 queries egress, 1 answers ingress`. */
    counts(): string {
      const [both] = member.contents("counts").map(({ value }) => value as Record<string, Record<string, number>>);
      return Object.entries(both ?? {})
        .flatMap(([direction, counts]) =>
          Object.entries(counts).map(([name, n]) => ({ n, text: `${n} ${name} ${direction}` })),
        )
        .filter(({ n }) => n > 0)
        .map(({ text }) => text)
        .join(", ");
    },
    [Symbol.dispose]: () => lab[Symbol.dispose](),
  };
  return it;
}

const swapped = (port: number): number => ((port & 255) << 8) | (port >> 8);

// ---- a transaction ---------------------------------------------------------------------------------------------

for (const family of ["IPv4", "IPv6"] as const) {
  test(`${family}: a query is written down, and its answer completes it`, async () => {
    using it = pod({}, family);
    const before = Number(process.hrtime.bigint());
    it.asks(query("www.Example.ORG", { id: 0x1234, type: 28 }));
    const open = it.transaction();
    assert.equal([open.answered, open.latency, open.name], [false, 0, "www.example.org"]);
    await wait(20);
    const between = Number(process.hrtime.bigint());
    it.hears(answer({ id: 0x1234, rcode: 3, answers: 5, truncated: true }));
    const after = Number(process.hrtime.bigint());
    const { asked, latency, flow, ...rest } = it.transaction();
    assert.equal(rest, {
      sequence: 1,
      direction: "REMORA_EGRESS",
      queries: 1,
      id: 0x1234,
      type: 28,
      class: 1,
      answers: 5,
      rcode: 3,
      answered: true,
      truncated: true,
      reserved: [0, 0, 0, 0, 0],
      name: "www.example.org",
    });
    assert.ok(asked >= before && asked <= between, "on the clock of process.hrtime");
    assert.ok(latency >= 15_000_000 && latency <= after - before, `${latency} ns`);
    assert.equal([flow.source_port, flow.destination_port].map(swapped), [40000, 53]);
    const last = ({ bytes }: { bytes: number[] }) => bytes[15];
    assert.equal([last(flow.source), last(flow.destination)], family === "IPv4" ? [2, 53] : [2, 0x53]);
    assert.is(it.counts(), "1 answers ingress, 1 nxdomain ingress, 1 queries egress");
  });
}

test("a pod that is a server: the direction is the query's", () => {
  using it = pod();
  it.asked(query("a.example"));
  it.tells(answer());
  assert.equal([it.transaction().direction, it.transaction().answered], ["REMORA_INGRESS", true]);
  assert.is(it.counts(), "1 queries ingress, 1 answers egress, 1 noerror egress");
});

test("each response code has its count", () => {
  using it = pod();
  for (let rcode = 0; rcode < 16; rcode++) {
    it.asks(query("a.example", { id: rcode }));
    it.hears(answer({ id: rcode, rcode }));
  }
  assert.equal(
    it.transactions().map(({ rcode }) => rcode),
    Array.from({ length: 16 }, (_, rcode) => rcode),
  );
  const each = ["noerror", "formerr", "servfail", "nxdomain", "notimp", "refused"].map((name) => `1 ${name} ingress`);
  assert.is(it.counts(), ["16 answers ingress", ...each, "10 other_rcode ingress", "16 queries egress"].join(", "));
});

test("a query sent again is the same transaction, and its latency counts from the first", async () => {
  using it = pod();
  it.asks(query("a.example"));
  await wait(20);
  it.asks(query("A.EXAMPLE"));
  it.hears(answer());
  const { queries, latency } = it.transaction();
  assert.is(queries, 2);
  assert.ok(latency >= 15_000_000);
  assert.is(it.counts(), "1 answers ingress, 1 noerror ingress, 1 queries egress, 1 again egress");
});

test("the same ports and id with another question are another transaction, which the answer belongs to", () => {
  for (const [first, second] of [
    [query("a.example"), query("b.example")],
    [query("a.example", { type: 1 }), query("a.example", { type: 28 })],
    [query("a.example", { class: 1 }), query("a.example", { class: 3 })],
    [query("ab.c"), query("a.bc")],
  ] as const) {
    using it = pod();
    it.asks(first);
    it.asks(second);
    it.hears(answer());
    assert.equal(
      it.transactions().map(({ answered }) => answered),
      [false, true],
    );
  }
});

for (const { what, play } of [
  { what: "with another id", play: (it: ReturnType<typeof pod>) => it.hears(answer({ id: 2 })) },
  {
    what: "to another port",
    play: (it: ReturnType<typeof pod>) => it.hears(answer(), { source: 53, destination: 40001 }),
  },
  { what: "that goes the query's way", play: (it: ReturnType<typeof pod>) => it.tells(answer()) },
])
  test(`an answer ${what} is not this query's`, () => {
    using it = pod();
    it.asks(query("a.example"));
    play(it);
    assert.is(it.transaction().answered, false);
    assert.match(it.counts(), /1 unmatched/);
  });

test("of two answers the first counts", () => {
  using it = pod();
  it.asks(query("a.example"));
  it.hears(answer({ rcode: 2 }));
  it.hears(answer({ rcode: 0 }));
  assert.is(it.transaction().rcode, 2);
  assert.is(it.counts(), "1 answers ingress, 1 servfail ingress, 1 unmatched ingress, 1 queries egress");
});

test("the ring goes round, and a late answer finds its place taken", () => {
  using it = pod();
  const size = 1024;
  it.asks(query("slow.example", { id: 0xffff }));
  for (let id = 0; id < size; id++) {
    it.asks(query(`n${id}.example`, { id }));
    if (id > 0) it.hears(answer({ id }));
  }
  it.hears(answer({ id: 0xffff, rcode: 2 }));
  const all = it.transactions();
  assert.equal([all.length, all[0]?.sequence, all[size - 1]?.sequence], [size, 2, size + 1]);
  assert.ok(all.every(({ name, id, sequence }) => name === `n${id}.example` && id === sequence - 2));
  assert.ok(all.every(({ answered, rcode }, at) => answered === at > 0 && rcode === 0));
  assert.match(it.counts(), /1024 answers ingress, .*1 servfail ingress/);
});

test("of more pending queries than there is room for, the oldest are forgotten", () => {
  using it = pod();
  const matched = (from: number, to: number): number => {
    const before = it.transactions().filter(({ answered }) => answered).length;
    for (let id = from; id < to; id++) it.hears(answer({ id }));
    return it.transactions().filter(({ answered }) => answered).length - before;
  };
  for (let id = 0; id < 3000; id++) it.asks(query("a.example", { id }));
  assert.is(matched(2900, 3000), 100);
  for (let id = 0; id < 1000; id++) it.hears(answer({ id }));
  // Roughly: each CPU that this process was on keeps some for itself.
  const [, unmatched = 0] = /(\d+) unmatched ingress/.exec(it.counts()) ?? [];
  assert.ok(Number(unmatched) > 500, `${unmatched} of 1000`);
});

// ---- names -----------------------------------------------------------------------------------------------------

const label = (length: number, letter = "a"): Buffer => Buffer.from(letter.repeat(length));
const longest = [label(63), label(63), label(63), label(61)]; // 255 bytes on the wire
for (const { what, name, shown } of [
  { what: "the root", name: [], shown: "." },
  { what: "one letter", name: "x", shown: "x" },
  { what: "a service", name: "_http._tcp.example", shown: "_http._tcp.example" },
  { what: "capitals and what stands beside them", name: "@AZ[`az{09-_", shown: "@az[`az{09-_" },
  { what: "bytes that are no text", name: [Buffer.from([0, 9, 32, 33, 126, 127, 128, 0xc1, 255])], shown: "???!~????" },
  { what: "dots and backslashes in a label", name: [Buffer.from("a.b\\c"), Buffer.from("d")], shown: "a?b?c.d" },
  { what: "a label of 63", name: [label(63), Buffer.from("org")], shown: `${"a".repeat(63)}.org` },
  { what: "127 labels", name: Array(127).fill(label(1)), shown: Array(127).fill("a").join(".") },
  { what: "255 bytes", name: longest, shown: longest.join(".") },
] as { what: string; name: string | Buffer[]; shown: string }[])
  test(`a name: ${what}`, () => {
    using it = pod();
    it.asks(query(name, { type: 65, class: 255 }));
    const { name: text, type, class: of } = it.transaction();
    assert.equal([text, type, of], [shown, 65, 255]);
    assert.is(it.counts(), "1 queries egress");
  });

test("a shorter name leaves nothing of the longer one before it", () => {
  using it = pod();
  it.asks(query(longest));
  it.asks(query("b", { id: 2 }));
  assert.is(it.transactions()[1]?.name, "b");
});

test("a name is not read beyond the question: what follows may be anything", () => {
  using it = pod();
  it.asks(Buffer.concat([query("a.example"), Buffer.alloc(300, 0xff)]));
  assert.is(it.transaction().name, "a.example");
});

test("without `names`, all but the names is kept", () => {
  using it = pod({ names: "false" });
  it.asks(query("secret.example", { type: 16 }));
  it.asks(query("other.example", { type: 16 }));
  it.hears(answer());
  assert.equal(
    it.transactions().map(({ name, type, answered }) => [name, type, answered]),
    [
      ["", 16, false],
      ["", 16, true],
    ],
  );
});

test("another port", () => {
  using it = pod({ port: "5353" });
  it.asks(query("a.example"));
  it.asks(query("b.example"), { source: 40000, destination: 5353 });
  assert.is(it.transaction().name, "b.example");
});

// ---- what is not written down ----------------------------------------------------------------------------------

const good = query("www.example.org");
const pointer = Buffer.from([0xc0, 0x0c]);
for (const { what, message, reason } of [
  { what: "less than a header", message: good.subarray(0, 11), reason: "header_short" },
  { what: "a header alone", message: good.subarray(0, 12), reason: "question_short" },
  { what: "no questions", message: query("a", { questions: 0 }), reason: "not_one_question" },
  { what: "two questions", message: query("a", { questions: 2 }), reason: "not_one_question" },
  { what: "256 questions", message: query("a", { questions: 256 }), reason: "not_one_question" },
  { what: "a NOTIFY", message: query("a", { opcode: 4 }), reason: "other_opcode" },
  { what: "an answer to the server", message: answer(), reason: "wrong_way" },
  {
    what: "a compressed name",
    message: Buffer.concat([header({}), pointer, u16(1), u16(1)]),
    reason: "name_compressed",
  },
  {
    what: "a compressed end",
    message: Buffer.concat([header({}), wire("www").subarray(0, 4), pointer, u16(1), u16(1)]),
    reason: "name_compressed",
  },
  {
    what: "label kind 01",
    message: Buffer.concat([header({}), Buffer.from([0x41, 97, 0, 0, 1, 0, 1])]),
    reason: "name_reserved",
  },
  {
    what: "label kind 10",
    message: Buffer.concat([header({}), Buffer.from([1, 97, 0x80, 0, 0, 1, 0, 1])]),
    reason: "name_reserved",
  },
  { what: "256 bytes", message: query([label(63), label(63), label(63), label(62)]), reason: "name_long" },
  { what: "128 labels", message: query(Array(128).fill(label(1))), reason: "name_long" },
  { what: "a name without end", message: Buffer.concat([header({}), Buffer.alloc(400, 1)]), reason: "name_long" },
])
  test(`not written down: ${what}, ${reason}`, () => {
    using it = pod();
    it.asks(query("long.name.that.stays.behind.example", { id: 9 }));
    it.asks(message);
    assert.is(it.transaction().id, 9);
    assert.ok(it.counts().includes(`1 ${reason} egress`), it.counts());
  });

test("a query cut short anywhere is not written down, and reads nothing of the packet before", () => {
  using it = pod();
  it.asks(query("somewhat.longer.than.the.other.example", { id: 9 }));
  for (let length = 0; length < good.length; length++) it.asks(good.subarray(0, length));
  assert.is(it.transactions().length, 1);
  assert.is(it.counts(), `1 queries egress, 12 header_short egress, ${good.length - 12} question_short egress`);
});

test("the datagram ends where UDP says, whatever follows in the frame", () => {
  using it = pod();
  const frame = ethernet(ipv4({}, udp({}, good)));
  frame.writeUInt16BE(8 + good.length - 1, 14 + 20 + 4);
  it.goes(frame);
  assert.is(it.counts(), "1 question_short egress");
});

for (const { what, frame, counts } of [
  { what: "an IPv4 header with options", frame: ethernet(ipv4({ options: Buffer.alloc(40, 1) }, udp({}, good))) },
  { what: "extension headers", frame: ethernet(ipv6({}, extension("hopByHop", udp({}, good), 64))) },
  { what: "a tag", frame: ethernet(vlan(7, ipv4({}, udp({}, good)))) },
  { what: "a first fragment", frame: ethernet(ipv6({}, fragment6({ offset: 0, more: true }, udp({}, good)))) },
  { what: "padding", frame: Buffer.concat([ethernet(ipv4({}, udp({}, query("a")))), Buffer.alloc(20)]) },
  {
    what: "a later fragment",
    frame: ethernet(ipv4({ fragment: { offset: 9, more: false } }, udp({}, good))),
    counts: "",
  },
  { what: "another port", frame: ethernet(ipv4({}, udp({ destination: 5353 }, good))), counts: "" },
  { what: "TCP", frame: ethernet(ipv4({}, tcp({ destination: 53 }))), counts: "1 tcp egress" },
  { what: "TCP from the port", frame: ethernet(ipv4({}, tcp({ source: 53 }))), counts: "1 tcp egress" },
])
  test(`${what}: ${counts ?? "read"}`, () => {
    using it = pod();
    it.goes(frame);
    assert.is(it.counts(), counts ?? "1 queries egress");
    assert.is(it.transactions().length, counts === undefined ? 1 : 0);
  });

test("of several datagrams in one skb the first is read, and it is said", () => {
  using it = pod();
  const two = Buffer.concat([good, good]);
  it.goes(ethernet(ipv4({}, udp({}, two))), { gsoSegs: 2, gsoSize: good.length });
  assert.is(it.counts(), "1 queries egress, 1 segmented egress");
});

// ---- against a second reader -----------------------------------------------------------------------------------

type Read = { name: string; type: number } | string;

/** What dns-log shall make of a query's bytes, told byte by byte. */
function read(message: Buffer): Read {
  const rest = message.subarray(12);
  if (rest.length < 5) return "question_short";
  const labels: string[] = [];
  let at = 0;
  let bytes = 1;
  for (;;) {
    const length = rest[at];
    if (length === undefined) return "question_short";
    if (length >= 0xc0) return "name_compressed";
    if (length >= 0x40) return "name_reserved";
    if (length === 0) break;
    bytes += 1 + length;
    if (bytes > 255) return rest.length >= 259 ? "name_long" : "question_short";
    const text = [...rest.subarray(at + 1, at + 1 + length)].map((byte) => {
      const plain = byte > 32 && byte < 127 && byte !== 0x2e && byte !== 0x5c;
      return plain ? String.fromCharCode(byte).toLowerCase() : "?";
    });
    labels.push(text.join(""));
    at += 1 + length;
  }
  if (rest.length < at + 5) return "question_short";
  return { name: labels.join(".") || ".", type: rest.readUInt16BE(at + 1) };
}

test("a thousand random questions are read as a second reader reads them", () => {
  using it = pod();
  let seed = 20_261_123;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 8) % below;
  };
  const bytes = (length: number) => Buffer.from(Array.from({ length }, () => random(256)));
  const kinds = [
    () => bytes(random(300)),
    () => Buffer.concat([wire(Array.from({ length: random(6) }, () => bytes(1 + random(63)))), bytes(random(8))]),
    () => Buffer.concat([wire(Array.from({ length: random(130) }, () => bytes(1 + random(3)))), bytes(random(300))]),
    () => bytes(300).map((byte) => byte & 0x0f),
  ];
  const reasons: Record<string, number> = {};
  const expected = new Map<number, Read>();
  for (let id = 0; id < 1000; id++) {
    const message = Buffer.concat([header({ id }), (kinds[id % kinds.length] ?? bytes)(id)]);
    const wanted = read(message);
    const reason = typeof wanted === "string" ? wanted : "queries";
    reasons[reason] = (reasons[reason] ?? 0) + 1;
    expected.set(id, wanted);
    it.asks(message);
  }
  const written = new Map(it.transactions().map(({ id, name, type }) => [id, { name, type }]));
  for (const [id, wanted] of expected)
    assert.equal(written.get(id), typeof wanted === "string" ? undefined : wanted, `${id}: ${JSON.stringify(wanted)}`);
  const counted = it.counts().split(", ").sort();
  assert.equal(
    counted,
    Object.entries(reasons)
      .map(([name, n]) => `${n} ${name} egress`)
      .sort(),
  );
  assert.ok(Object.keys(reasons).length === 5 && (reasons.queries ?? 0) > 200, JSON.stringify(reasons));
});

test.run();
