// SPDX-License-Identifier: Apache-2.0
import { isIPv4, isIPv6 } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { address, formatIpv6, ipv4, ipv6, mac, parseIpv4, parseIpv6, prefix } from "./address.ts";
import { BadValue } from "./value.ts";

const texts = [
  "10.1.2.3",
  "255.255.255.255",
  "0.0.0.0",
  "256.1.1.1",
  "1.2.3",
  "1.2.3.4.5",
  "01.2.3.4",
  "1.2.3.",
  "",
  " 1.2.3.4",
  "1.2.3.4 ",
  "::",
  "::1",
  "1::",
  "2001:db8::1",
  "1:2:3:4:5:6:7:8",
  "1:2:3:4:5:6:7",
  "1:2:3:4:5:6:7:8:9",
  "1::2::3",
  ":::",
  "1:::2",
  ":1",
  "1:",
  "12345::",
  "g::",
  "::1.2.3.4",
  "::ffff:1.2.3.4",
  "1.2.3.4::",
  "1:2:3:4:5:6:1.2.3.4",
  "1:2:3:4:5:6:7:1.2.3.4",
  "::1.2.3.4:1",
  "1::2:3:4:5:6:7",
  "1::2:3:4:5:6:7:8",
  "2001:DB8::A",
  "0:0:0:0:0:0:0:0",
  "fe80::1.2.3.256",
];
test("agrees with the C library's idea of an address", () => {
  for (const text of texts) {
    assert.is(parseIpv4(text) !== undefined, isIPv4(text), `IPv4 "${text}"`);
    assert.is(parseIpv6(text) !== undefined, isIPv6(text), `IPv6 "${text}"`);
  }
});

test("bytes of IPv6 agree with the URL standard's canonical text", () => {
  for (let round = 0; round < 2000; round += 1) {
    const bytes = Buffer.from(
      Array.from({ length: 8 }, () =>
        Math.random() < 0.6 ? [0, 0] : [Math.random() * 256, Math.random() * 256],
      ).flat(),
    );
    if (bytes.subarray(0, 10).every((byte) => byte === 0)) continue;
    const text = formatIpv6(bytes);
    assert.is(new URL(`http://[${text}]/`).hostname, `[${text}]`);
    assert.equal(parseIpv6(text), bytes, text);
  }
});

test("addresses in network order, IPv4 mapped where either family fits", () => {
  assert.is(ipv4.encode("10.1.2.3").toString("hex"), "0a010203");
  assert.is(ipv6.encode("2001:db8::1").toString("hex"), "20010db8000000000000000000000001");
  assert.is(address.encode("10.1.2.3").toString("hex"), "00000000000000000000ffff0a010203");
  assert.is(address.decode(address.encode("10.1.2.3")), "10.1.2.3");
  assert.is(address.decode(address.encode("2001:DB8::1")), "2001:db8::1");
  assert.is(ipv6.decode(ipv6.encode("::FFFF:1.2.3.4")), "::ffff:1.2.3.4");
});

test("a MAC, which is nothing where it is all zero", () => {
  assert.is(mac.encode("02:00:00:00:AB:01").toString("hex"), "02000000ab01");
  assert.is(mac.decode(mac.encode("02:00:00:00:AB:01")), "02:00:00:00:ab:01");
  assert.is(mac.decode(Buffer.alloc(6)), "");
  for (const text of ["", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:01:02", "2:0:0:0:0:1"])
    assert.throws(
      () => mac.encode(text),
      (error: unknown) => error instanceof BadValue && error.message.includes("is not a MAC address such as"),
    );
});

const prefixes: [text: string, canonical: string, hex: string][] = [
  ["10.0.0.0/8", "10.0.0.0/8", "00000000000000000000ffff0a00000068040000" + "00000000"],
  ["0.0.0.0/0", "0.0.0.0/0", "00000000000000000000ffff0000000060040000" + "00000000"],
  ["10.1.2.3", "10.1.2.3", "00000000000000000000ffff0a01020380040000" + "00000000"],
  ["10.1.2.3/32", "10.1.2.3", "00000000000000000000ffff0a01020380040000" + "00000000"],
  ["2001:db8::/32", "2001:db8::/32", "20010db800000000000000000000000020060000" + "00000000"],
  ["::/0", "::/0", "0000000000000000000000000000000000060000" + "00000000"],
  ["Any", "any", "00".repeat(24)],
];
for (const [text, canonical, hex] of prefixes) {
  test(`prefix ${text}`, () => {
    assert.is(prefix.encode(text).toString("hex"), hex);
    assert.is(prefix.decode(prefix.encode(text)), canonical);
  });
}

const wrong: [text: string, part: string][] = [
  ["10.1.2.3/8", "the network is 10.0.0.0/8"],
  ["2001:db8::1/32", "the network is 2001:db8::/32"],
  ["10.0.0.0/33", "0 to 32 bits"],
  ["::/129", "0 to 128 bits"],
  ["10.0.0.0/", "0 to 32 bits"],
  ["10.0.0.0/08", "0 to 32 bits"],
  ["10.0.0.0/8/8", "0 to 32 bits"],
  ["::ffff:10.0.0.0/104", "write 10.0.0.0"],
  ["everything", "is not an IP address"],
  ["", "is not an IP address"],
];
for (const [text, part] of wrong) {
  test(`prefix "${text}" is refused: ${part}`, () => {
    assert.throws(
      () => prefix.encode(text),
      (error: unknown) => error instanceof BadValue && error.message.includes(part),
    );
  });
}

test("what is no address is told what one looks like", () => {
  for (const text of ["10.0.9.999", "", "fe80::1%eth0"])
    assert.throws(() => address.encode(text), /is not an IP address such as 10\.1\.2\.3 or 2001:db8::1$/);
});

test.run();
