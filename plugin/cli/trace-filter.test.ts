// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Flow } from "../trace/packet.ts";
import { UsageError } from "./command.ts";
import { readFilter } from "./trace-filter.ts";

const web: Flow = {
  protocol: "tcp",
  source: "10.0.0.7",
  destination: "10.1.2.3",
  sourcePort: 40000,
  destinationPort: 80,
};
const dns: Flow = {
  protocol: "udp",
  source: "fd00::7",
  destination: "fd00::53",
  sourcePort: 4000,
  destinationPort: 53,
};
const ping: Flow = { protocol: "icmp6", source: "fd00::7", destination: "fd01::1", detail: "echo request id 1 seq 1" };
const lldp: Flow = { protocol: "ethertype 0x88cc" };
const odd: Flow = { protocol: "253", source: "10.0.0.7", destination: "10.0.0.8" };
const all = { web, dns, ping, lldp, odd };

const table: [Record<string, string>, (keyof typeof all)[]][] = [
  [{}, ["web", "dns", "ping", "lldp", "odd"]],
  [{ proto: "tcp" }, ["web"]],
  [{ proto: "ICMPv6" }, ["ping"]],
  [{ proto: "253" }, ["odd"]],
  [{ proto: "6" }, ["web"]],
  [{ proto: "058" }, ["ping"]],
  [{ port: "80" }, ["web"]],
  [{ port: "4000" }, ["dns"]],
  [{ port: "0" }, []],
  [{ addr: "10.0.0.7" }, ["web", "odd"]],
  [{ addr: "10.0.0.0/8" }, ["web", "odd"]],
  [{ addr: "0.0.0.0/0" }, ["web", "odd"]],
  [{ addr: "fd00::53" }, ["dns"]],
  [{ addr: "fd01::/16" }, ["ping"]],
  [{ addr: "fd00::/16", proto: "udp" }, ["dns"]],
  [{ addr: "10.0.0.7", port: "81" }, []],
];
for (const [given, wanted] of table)
  test(JSON.stringify(given), () => {
    const shows = readFilter({ text: (name) => given[name] });
    assert.equal(
      Object.entries(all).flatMap(([name, flow]) => (shows(flow) ? [name] : [])),
      wanted,
    );
  });

for (const given of [
  { proto: "tpc" },
  { port: "65536" },
  { port: "-1" },
  { port: "http" },
  { proto: "256" },
  { addr: "10.0.0.0/8/9" },
  { addr: "10.0.0" },
  { addr: "10.0.0.1/33" },
  { addr: "fd00::/" },
  { addr: "web" },
] as Record<string, string>[])
  test(`refused: ${JSON.stringify(given)}`, () => {
    assert.throws(
      () => readFilter({ text: (name) => given[name] }),
      (error: unknown) => error instanceof UsageError,
    );
  });

test.run();
