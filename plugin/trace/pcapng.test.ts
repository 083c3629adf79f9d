// SPDX-License-Identifier: Apache-2.0
/** The blocks, read back as the draft describes them. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { enhancedPacket, interfaceDescription, linkType, sectionHeader } from "./pcapng.ts";

function blocks(file: Buffer): { type: number; body: Buffer }[] {
  const found = [];
  for (let at = 0; at < file.length; ) {
    const length = file.readUInt32LE(at + 4);
    assert.is(length % 4, 0);
    assert.is(file.readUInt32LE(at + length - 4), length, "the length stands at both ends");
    found.push({ type: file.readUInt32LE(at), body: file.subarray(at + 8, at + length - 4) });
    at += length;
  }
  return found;
}

function options(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt16LE(at + 2);
    const code = bytes.readUInt16LE(at);
    if (code === 0) {
      assert.is(at + 4, bytes.length, "the end of the options is the end of the block");
      return found;
    }
    found.set(code, bytes.subarray(at + 4, at + 4 + length));
    at += 4 + Math.ceil(length / 4) * 4;
  }
  throw new Error("the options do not end");
}

test("a file of a section, two interfaces and a packet", () => {
  const time = 1_790_000_000_123_456_789n;
  const bytes = Buffer.from("0102030405", "hex");
  const [section, first, second, packet, ...rest] = blocks(
    Buffer.concat([
      sectionHeader("remora trace"),
      interfaceDescription("eth0", linkType.ethernet, 128),
      interfaceDescription("net1", linkType.raw, 128),
      enhancedPacket({ interface: 1, time, bytes, length: 98, direction: "egress", comment: "count OK: gäbe" }),
    ]),
  );
  assert.equal(rest, []);
  assert.is(section?.type, 0x0a0d0d0a);
  assert.is(section?.body.readUInt32LE(0), 0x1a2b3c4d);
  assert.equal([section?.body.readUInt16LE(4), section?.body.readUInt16LE(6)], [1, 0]);
  assert.is(section?.body.readBigInt64LE(8), -1n);
  assert.is(
    options(section?.body.subarray(16) ?? bytes)
      .get(4)
      ?.toString(),
    "remora trace",
  );

  for (const [block, link, name] of [
    [first, 1, "eth0"],
    [second, 101, "net1"],
  ] as const) {
    assert.is(block?.type, 1);
    assert.is(block?.body.readUInt16LE(0), link);
    assert.is(block?.body.readUInt32LE(4), 128);
    const said = options(block?.body.subarray(8) ?? bytes);
    assert.is(said.get(2)?.toString(), name);
    assert.equal(said.get(9), Buffer.from([9]), "nanoseconds");
  }

  assert.is(packet?.type, 6);
  const body = packet?.body ?? bytes;
  assert.is(body.readUInt32LE(0), 1);
  assert.is((BigInt(body.readUInt32LE(4)) << 32n) | BigInt(body.readUInt32LE(8)), time);
  assert.equal([body.readUInt32LE(12), body.readUInt32LE(16)], [5, 98]);
  assert.equal(body.subarray(20, 28), Buffer.from("0102030405000000", "hex"));
  const said = options(body.subarray(28));
  assert.is(said.get(1)?.toString(), "count OK: gäbe");
  assert.is(said.get(2)?.readUInt32LE(), 2, "outbound");
});

for (const length of [0, 1, 2, 3, 4, 5])
  test(`${length} bytes are padded to four`, () => {
    const packet = { interface: 0, time: 1n, length: 0, direction: "ingress", comment: "x".repeat(length) } as const;
    const [block] = blocks(enhancedPacket({ ...packet, bytes: Buffer.alloc(length, 7) }));
    const padded = Math.ceil(length / 4) * 4;
    const said = options(block?.body.subarray(20 + padded) ?? Buffer.alloc(0));
    assert.is(said.get(1)?.length, length);
    assert.is(said.get(2)?.readUInt32LE(), 1, "inbound");
  });

test.run();
