// SPDX-License-Identifier: Apache-2.0
/**
 * rate-limit on the way of real TCP streams. Nothing here asks how near they come to the rate, which depends on the
 * machine's load (`npm run bench -- rates` measures that): they must not be faster, and must arrive whole.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Namespace } from "../e2e/lib/scratch.ts";
import { type Chain, laboratory } from "./laboratory.ts";
import { readRateVerdicts, readSeen } from "./layout.ts";
import { bareIpPair, ethernetPair, four, six, transfer } from "./pairs.ts";

const limiter = (params: Record<string, string>) => ({ program: "rate-limit", entry: "rate_limit", params });
const observer = { program: "fixtures/tos", entry: "tos" };
const counted = (chain: Chain, at = 0) => readRateVerdicts(chain.members[at]?.totals("verdicts") ?? []);

/** Lets the namespace's TCP ask for ECN, and agree to it. */
const setEcn = (namespace: Namespace, on: boolean) =>
  namespace.exec("sh", "-c", `echo ${on ? 1 : 0} > /proc/sys/net/ipv4/tcp_ecn`);

for (const { device, pair } of [
  { device: "veth", pair: ethernetPair },
  { device: "a device without Ethernet headers", pair: bareIpPair },
])
  for (const direction of ["egress", "ingress"] as const)
    test(`${device}, ${direction}: a stream is no faster than the rate, and arrives whole`, async () => {
      using lab = laboratory();
      const [a, b] = pair(lab);
      const [bytes, rate, burst] = [1_500_000, 24_000_000, 900_000];
      const chain = lab.chain([limiter({ rate: `${rate}bit`, burst: String(burst) })]);
      lab.attach(chain, direction === "egress" ? a : b, "pod0", direction);
      const began = performance.now();
      assert.is(await transfer(a, b, direction === "egress" ? four[1] : six[1], bytes), bytes);
      const seconds = (performance.now() - began) / 1000;
      const { conformed, droppedByRate } = counted(chain);
      const most = burst + (rate / 8) * seconds + 70_000;
      assert.ok(conformed.bytes > bytes && conformed.bytes < most, `${conformed.bytes} bytes in ${seconds} s`);
      // Headers of 52 to 86 bytes for each 1448 or less, and what was sent before it was dropped behind the limit.
      assert.ok(conformed.packets > bytes / 1500, `${conformed.packets} packets on the wire`);
      assert.ok(droppedByRate.packets > 0);
    });

for (const ecn of [true, false])
  test(`mode ecn: streams of ${ecn ? "senders that know it are marked" : "others are not"}`, async () => {
    using lab = laboratory();
    const [a, b] = ethernetPair(lab);
    for (const namespace of [a, b]) setEcn(namespace, ecn);
    const chain = lab.chain([limiter({ rate: "100Mbit", burst: "300KB", mode: "ecn" })]);
    const received = lab.chain([observer]);
    lab.attach(chain, a, "pod0", "egress");
    lab.attach(received, b, "pod0", "ingress");
    for (const address of [four[1], six[1]]) assert.is(await transfer(a, b, address, 400_000), 400_000);
    const tos = readSeen(received.members[0]?.totals("seen") ?? []);
    const { marked } = counted(chain);
    if (ecn) {
      assert.ok(marked.packets > 0 && marked.bytes > marked.packets);
      assert.ok((tos["ipv4 3"] ?? 0) > 0 && (tos["ipv6 3"] ?? 0) > 0, JSON.stringify(tos));
    } else {
      assert.is(marked.packets, 0);
      assert.equal(Object.keys(tos), ["ipv4 0", "ipv6 0"]);
    }
  });

test.run();
