// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { address6, type Flow, readFlow } from "./packet.ts";

const ethernet = (type: string): string => `020000000001020000000002${type}`;
/** An IPv4 header without options, 10.0.0.1 to 10.0.0.2. */
const ipv4 = (protocol: string, fragment = "0000"): string =>
  `450000540001${fragment}40${protocol}0000${"0a0000010a000002"}`;
/** fd00::1 to fd00::2. */
const ipv6 = (next: string): string =>
  `600000000014${next}40fd000000000000000000000000000001fd000000000000000000000000000002`;

const four = { source: "10.0.0.1", destination: "10.0.0.2" };
const six = { source: "fd00::1", destination: "fd00::2" };
const table: [string, string, Flow, boolean?][] = [
  [
    "echo request",
    `${ethernet("0800") + ipv4("01")}0800f7ff00050001`,
    { protocol: "icmp", ...four, detail: "echo request id 5 seq 1" },
  ],
  [
    "unreachable",
    `${ethernet("0800") + ipv4("01")}0303000000000000`,
    { protocol: "icmp", ...four, detail: "unreachable code 3" },
  ],
  [
    "udp",
    `${ethernet("0800") + ipv4("11")}003500ff0008`,
    { protocol: "udp", ...four, sourcePort: 53, destinationPort: 255 },
  ],
  [
    "tcp with flags",
    `${ethernet("0800") + ipv4("06")}1f9001bb00000000000000005012`,
    { protocol: "tcp", ...four, sourcePort: 8080, destinationPort: 443, detail: "SYN ACK" },
  ],
  [
    "tcp cut off before its flags",
    `${ethernet("0800") + ipv4("06")}1f9001bb`,
    { protocol: "tcp", ...four, sourcePort: 8080, destinationPort: 443 },
  ],
  ["cut off before its ports", `${ethernet("0800") + ipv4("06")}1f`, { protocol: "tcp", ...four }],
  [
    "a later fragment has no ports",
    `${ethernet("0800") + ipv4("11", "0010")}003500ff`,
    { protocol: "udp", ...four, detail: "fragment" },
  ],
  ["a protocol without a name", ethernet("0800") + ipv4("fd"), { protocol: "253", ...four }],
  [
    "vlan",
    `${ethernet("81000005")}0800${ipv4("11")}003500ff`,
    { protocol: "udp", ...four, sourcePort: 53, destinationPort: 255 },
  ],
  ["two vlans", `${ethernet("88a80005")}810000060800${ipv4("2f")}`, { protocol: "gre", ...four }],
  [
    "arp",
    `${ethernet("0806")}00010800060400010200000000020a0000010000000000000a000002`,
    { protocol: "arp", ...four, detail: "request" },
  ],
  ["arp cut off", `${ethernet("0806")}00010800`, { protocol: "arp" }],
  ["lldp", `${ethernet("88cc")}0207`, { protocol: "ethertype 0x88cc" }],
  [
    "ipv6",
    `${ethernet("86dd") + ipv6("11")}003500ff`,
    { protocol: "udp", ...six, sourcePort: 53, destinationPort: 255 },
  ],
  [
    "ipv6 with a hop-by-hop header",
    `${ethernet("86dd") + ipv6("00")}3a000000000000008000000000070002`,
    { protocol: "icmp6", ...six, detail: "echo request id 7 seq 2" },
  ],
  [
    "ipv6 later fragment",
    `${ethernet("86dd") + ipv6("2c")}1100000900000001ffffffff`,
    { protocol: "udp", ...six, detail: "fragment" },
  ],
  [
    "ipv6 first fragment",
    `${ethernet("86dd") + ipv6("2c")}1100000100000001003500ff`,
    { protocol: "udp", ...six, sourcePort: 53, destinationPort: 255 },
  ],
  [
    "no Ethernet header, IPv4",
    `${ipv4("11")}003500ff`,
    { protocol: "udp", ...four, sourcePort: 53, destinationPort: 255 },
    false,
  ],
  [
    "no Ethernet header, IPv6",
    `${ipv6("3a")}8700`,
    { protocol: "icmp6", ...six, detail: "neighbour solicitation" },
    false,
  ],
  ["nothing", "", { protocol: "ethertype 0x0000" }],
  ["half an address", `${ethernet("0800")}45000054`, { protocol: "ethertype 0x0800" }],
];

for (const [what, hex, flow, hasEthernet = true] of table)
  test(what, () => {
    assert.equal(readFlow(Buffer.from(hex, "hex"), hasEthernet), flow);
  });

for (const [hex, text] of [
  ["00000000000000000000000000000000", "::"],
  ["00000000000000000000000000000001", "::1"],
  ["20010db8000000000001000000000001", "2001:db8::1:0:0:1"],
  ["20010db8000000010001000100010001", "2001:db8:0:1:1:1:1:1"],
  ["fe800000000000000000000000000000", "fe80::"],
] as const)
  test(`address ${text}`, () => {
    assert.is(address6(Buffer.from(hex, "hex"), 0), text);
  });

test("whatever the bytes, there is an answer", () => {
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(
      Array.from({ length: i % 90 }, (_, at) => ((i * 2654435761 + at * 40503 * (i + at)) >>> 8) & 255),
    );
    if (bytes.length > 14)
      bytes.set(
        [
          [0x08, 0],
          [0x86, 0xdd],
          [0x08, 0x06],
          [0x81, 0],
        ][i % 4] ?? [],
        12,
      );
    assert.type(readFlow(bytes, i % 3 > 0).protocol, "string");
  }
});

test.run();
