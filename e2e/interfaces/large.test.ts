// SPDX-License-Identifier: Apache-2.0
/** Frames above 1500 bytes: what measures, delays and copies takes them as they are, and mirror's bound is the interface's. */
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { transfer } from "../../bpf/pairs.ts";
import { attachment, done, type Ground, ground, ping, podNamespace } from "./ground.ts";

/** What one entry of a program's map holds. */
function contents(it: Ground, program: string, map: string) {
  const { maps } = JSON.parse(done(it.remora("maps", "shop/web", program, map, "--json")));
  return maps.map(({ entries }: { entries: { value: unknown }[] }) => entries[0]?.value);
}

test("MTU 9000: counted to the byte, let through by a rate, and copied whole where the copy fits", async () => {
  using it = ground();
  const pod = podNamespace(it);
  // Nothing speaks but the test.
  for (const end of [pod, it.host]) end.exec("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1");
  it.host.exec("ip", ..."link add copies0 type vxlan id 1 dstport 4789 local 10.90.0.1".split(" "));
  it.host.exec("ip", "link", "set", "copies0", "mtu", "9000", "up");
  const collected = () => JSON.parse(it.host.exec("ip", "-s", "-j", "link", "show", "copies0"))[0].stats64.rx;
  const chain = [
    { program: "mirror", params: { collector: "10.90.0.1" } },
    { program: "count" },
    { program: "rate-limit", params: { rate: "1Gbit", burst: "4MiB" } },
  ];
  const ipam = { type: "host-local", ranges: [[{ subnet: "10.90.0.0/24" }]] };
  const list = it.network({ type: "ptp", mtu: 9000, ipam }, { chain });
  const where = attachment(pod.path);
  const added = list.add(where);
  const [status] = it.attachments();
  assert.is(status?.egress.find(({ program }) => program === "mirror")?.params?.mtu, 9000);

  const copies = () => contents(it, "mirror", "copies")[0];
  /** An echo and its answer, as the collector's device counts what it unwraps: without Ethernet headers. */
  const echo = async (payload: number): Promise<number> => {
    const before = collected();
    assert.ok(ping(pod, "10.90.0.1", 1, "-s", `${payload}`, "-M", "do"));
    for (let round = 0; collected().packets < before.packets + 2 && round < 200; round++) await sleep(25);
    assert.is(collected().packets, before.packets + 2);
    return collected().bytes - before.bytes;
  };
  // The largest packet that the interface takes. Around its copy would be 14 bytes of Ethernet, and VXLAN, UDP and IPv4.
  const around = 14 + 8 + 8 + 20;
  assert.is(await echo(9000 - 28), 2 * (9000 - around));
  for (const { ipv4_icmp } of contents(it, "count", "totals"))
    assert.equal(ipv4_icmp, { packets: 1, wire_packets: 1, wire_bytes: 14 + 9000 });
  assert.is(copies().cut, 2);
  // The largest whose copy fits.
  assert.is(await echo(9000 - around - 28), 2 * (9000 - around));
  assert.is(copies().cut, 2);

  // TCP: segments of 8948 bytes, most of them in larger pieces. A frame has 66 bytes of headers, the first 8 more.
  const bytes = 1_000_000;
  assert.is(await transfer(pod, it.host, "10.90.0.1", bytes), bytes);
  const sent = contents(it, "count", "totals")[1].ipv4_tcp;
  const payload = sent.wire_bytes - 66 * sent.wire_packets - 8;
  const resent = Number(/^Tcp: \d.*$/m.exec(pod.exec("cat", "/proc/net/snmp"))?.[0].split(" ")[12]);
  assert.ok(payload >= bytes && payload <= bytes + 8948 * resent, `${payload} bytes, ${resent} sent again`);
  assert.ok(sent.wire_packets >= bytes / 8948 && sent.packets < sent.wire_packets, JSON.stringify(sent));
  const [ingress, egress] = contents(it, "rate-limit", "verdicts");
  for (const { dropped_by_rate } of [ingress, egress]) assert.is(dropped_by_rate.packets, 0);
  assert.ok(egress.conformed.bytes > sent.wire_bytes);
  list.check(where, added);
  list.del(where, added);
  assert.equal(it.pinned(), []);
});

test.run();
