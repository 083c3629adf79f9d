// SPDX-License-Identifier: Apache-2.0
/** The messages against bytes written by hand, and read back by their own templates as a collector does it. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type ExportedFlow, encode, encodeNames, type Stream } from "./ipfix.ts";

const stream: Stream = { domain: { id: 7 }, time: 1_790_000_000, sequence: 0, opening: true };
const flow: ExportedFlow = {
  source: Buffer.from([10, 0, 0, 2]),
  destination: Buffer.from([192, 0, 2, 9]),
  sourcePort: 40000,
  destinationPort: 443,
  protocol: 6,
  start: 1_790_000_000_123,
  end: 1_790_000_004_567,
  forward: { packets: 10, octets: 2 ** 40 + 5, dropped: 10, status: "aclDenied", tcpFlags: 0x1b },
  backward: { packets: 20, octets: 30000, dropped: 3, status: "forwarded", tcpFlags: 0x12 },
  reason: "ended",
  direction: "egress",
};
const six: ExportedFlow = {
  ...flow,
  source: Buffer.from("fd000000000000000000000000000001", "hex"),
  destination: Buffer.from("fd000000000000000000000000000002", "hex"),
  protocol: 17,
  reason: "idle",
  direction: "ingress",
};

interface Read {
  length: number;
  time: number;
  sequence: number;
  domain: number;
  /** `template`, and each field by `number` or `enterprise/number`, as hexadecimal. */
  records: { template: number; fields: Record<string, string> }[];
}

/** A collector in small: learns templates, reads records, checks every length. */
function collect(messages: Buffer[]): Read[] {
  const templates = new Map<number, { name: string; length: number }[]>();
  return messages.map((bytes) => {
    assert.is(bytes.readUInt16BE(0), 10);
    assert.is(bytes.readUInt16BE(2), bytes.length);
    const read: Read = {
      length: bytes.length,
      time: bytes.readUInt32BE(4),
      sequence: bytes.readUInt32BE(8),
      domain: bytes.readUInt32BE(12),
      records: [],
    };
    let next = 0;
    for (let at = 16; at < bytes.length; at = next) {
      const id = bytes.readUInt16BE(at);
      next = at + bytes.readUInt16BE(at + 2);
      assert.ok(next > at + 4 && next <= bytes.length, "a set lies within its message");
      for (at += 4; at < next; ) at = id < 4 ? learn(id, at) : take(id, at);
      assert.is(at, next, "records fill their set");
    }
    return read;

    function learn(id: number, at: number): number {
      const fields: { name: string; length: number }[] = [];
      let from = at + (id === 3 ? 6 : 4);
      for (let left = bytes.readUInt16BE(at + 2); left > 0; left--) {
        const number = bytes.readUInt16BE(from);
        const foreign = number >= 0x8000;
        const name = foreign ? `${bytes.readUInt32BE(from + 4)}/${number & 0x7fff}` : `${number}`;
        fields.push({ name, length: bytes.readUInt16BE(from + 2) });
        from += foreign ? 8 : 4;
      }
      templates.set(bytes.readUInt16BE(at), fields);
      return from;
    }
    function take(id: number, at: number): number {
      const fields: Record<string, string> = {};
      let from = at;
      for (const { name, length } of templates.get(id) ?? assert.unreachable(`template ${id} is unknown`) ?? []) {
        const bytesOf = length === 0xffff ? bytes.readUInt8(from++) : length;
        fields[name] = bytes.toString("hex", from, from + bytesOf);
        from += bytesOf;
      }
      read.records.push({ template: id, fields });
      return from;
    }
  });
}

test("a message, byte for byte", () => {
  const { messages, sequence } = encode([flow], { ...stream, opening: false, sequence: 4294967295 });
  assert.equal(
    messages.map((bytes) => bytes.toString("hex")),
    [
      [
        ["000a", "006a", "6ab13b80", "ffffffff", "00000007"], // version, length, time, sequence, domain
        ["0100", "005a"], // the set: template 256, length
        ["000001a0c4506c7b", "000001a0c4507dd7"], // from, to
        ["0a000002", "c0000209", "9c40", "01bb", "06"],
        ["0012", "001b"], // flags, reverse first
        ["000000000000000a", "0000010000000005", "0000000000000014", "0000000000007530"],
        ["40", "81"], // the answers forwarded, as far as is known; the others denied by an ACL
        ["000000000000000a", "0000000000000003"], // dropped
        ["03", "01", "01"], // ended, egress, from the initiator
      ]
        .flat()
        .join(""),
    ],
  );
  assert.is(sequence, 0, "it goes round");
});

test("a domain begins with templates, and says of both families the same", () => {
  const { messages, sequence } = encode([flow, six], stream);
  const [read, ...more] = collect(messages);
  assert.equal(more, []);
  assert.equal([read?.time, read?.sequence, read?.domain, sequence], [1_790_000_000, 0, 7, 2]);
  const [first, second] = read?.records ?? [];
  const common = {
    152: "000001a0c4506c7b",
    153: "000001a0c4507dd7",
    7: "9c40",
    11: "01bb",
    "29305/6": "0012",
    6: "001b",
    2: "000000000000000a",
    1: "0000010000000005",
    "29305/2": "0000000000000014",
    "29305/1": "0000000000007530",
    "29305/89": "40",
    89: "81",
    133: "000000000000000a",
    "29305/133": "0000000000000003",
  };
  assert.equal(first, {
    template: 256,
    fields: { ...common, 8: "0a000002", 12: "c0000209", 4: "06", 136: "03", 61: "01", 239: "01" },
  });
  assert.equal(second, {
    template: 257,
    fields: {
      ...common,
      27: six.source.toString("hex"),
      28: six.destination.toString("hex"),
      4: "11",
      136: "01",
      61: "00",
      239: "01",
    },
  });
});

test("many flows are several messages, each within its limit, numbered by the records before", () => {
  const many = Array.from({ length: 5000 }, (_, index) => ({ ...(index % 3 ? flow : six), sourcePort: index }));
  const { messages, sequence } = encode(many, stream);
  const read = collect(messages);
  assert.ok(read.length > 5);
  let before = 0;
  for (const { length, sequence: number, records } of read) {
    assert.ok(length <= 65_507);
    assert.is(number, before);
    before += records.length;
  }
  assert.is(sequence, before);
  const ports = read.flatMap(({ records }) => records.flatMap(({ fields: { 7: port } }) => port ?? []));
  assert.equal(
    ports.map((hex) => Number.parseInt(hex, 16)).sort((a, b) => a - b),
    many.map(({ sourcePort }) => sourcePort),
  );
});

test("without flows a domain still begins with its templates, and nothing follows", () => {
  const [opened, ...more] = encode([], stream).messages;
  assert.equal(more, []);
  assert.ok((opened?.length ?? 0) > 100);
  assert.equal(collect([opened as Buffer])[0]?.records, []);
  assert.equal(encode([], { ...stream, opening: false, sequence: 5 }), { messages: [], sequence: 5 });
});

test("counts that no number here holds are no reason to fail", () => {
  const huge = { ...flow, forward: { ...flow.forward, packets: 2 ** 64, octets: -1 } };
  const [read] = collect(encode([huge], stream).messages);
  assert.equal([read?.records[0]?.fields[2], read?.records[0]?.fields[1]], ["001fffffffffffff", "0000000000000000"]);
});

test("domains have names, in a message that is of none", () => {
  const named = encodeNames(
    [
      { id: 7, name: "shop/web eth0" },
      { id: 8, name: "n".repeat(400) },
    ],
    stream.time,
  );
  const [read] = collect([named]);
  assert.equal([read?.domain, read?.sequence], [0, 0]);
  assert.equal(read?.records, [
    { template: 258, fields: { 149: "00000007", 300: Buffer.from("shop/web eth0").toString("hex") } },
    { template: 258, fields: { 149: "00000008", 300: "6e".repeat(254) } },
  ]);
});

test.run();
