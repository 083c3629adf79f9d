// SPDX-License-Identifier: Apache-2.0
/** `remora maps` on the real kernel, with packets. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pod, remora } from "../../e2e/lib/pod.ts";
import { scratch } from "../../e2e/lib/scratch.ts";
import type { Decoded } from "../values/decode.ts";
import type { ShownMap } from "./maps.ts";

const state = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum kind { NOTHING, SMALL, LARGE };
struct flow { __u32 length; enum kind kind; char label[8]; };
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, struct flow); }
  flows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
__u64 runs;
const volatile __u32 limit = 7;
SEC("tc") int handle(struct __sk_buff *skb)
{
	struct flow flow = { skb->len, skb->len > 90 ? LARGE : SMALL, "icmp" };
	runs++;
	bpf_ringbuf_output(&events, &runs, sizeof(runs), 0);
	bpf_map_update_elem(&flows, &skb->protocol, &flow, BPF_ANY);
	return limit ? -1 : 0;
}
char _license[] SEC("license") = "GPL";`.replace("&skb->protocol", "&(__u32){ skb->protocol }");

/** The first entry's value, a struct. */
function structOf(entries: ShownMap["entries"]): { [name: string]: Decoded } {
  const value = entries?.[0]?.value;
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : {};
}

test("the packets that were sent are in the maps", async () => {
  using world = scratch();
  const { bpffs, outside } = await pod(
    world,
    { "remora.io/programs": JSON.stringify([{ program: "count" }, { program: "state", directions: ["ingress"] }]) },
    { state },
  );
  outside.exec("ping", "-c", "5", "-i", "0.02", "10.99.0.2");
  const show = async (...argv: string[]) => {
    const { status, stdout, stderr } = await remora("maps", "web", ...argv, "--bpffs", bpffs, "--json");
    assert.is(status, 0, stderr);
    return (JSON.parse(stdout) as { maps: ShownMap[] }).maps;
  };
  const counted = await show("count");
  assert.equal(
    counted.map(({ name, type, at }) => [name, type, at]),
    [
      ["totals", "percpu_array", [{ direction: "ingress", at: "pod", position: 0 }]],
      ["totals", "percpu_array", [{ direction: "egress", at: "pod", position: 0 }]],
    ],
  );
  for (const { entries } of counted) {
    assert.equal(structOf(entries).ipv4_icmp, {
      packets: 5,
      wire_packets: 5,
      wire_bytes: 490,
    });
  }
  const [apart] = await show("count", "totals", "--per-cpu");
  const perCpu = apart?.entries?.[0]?.values as { ipv4_icmp: { packets: number } }[];
  assert.ok(perCpu.length >= 1);
  assert.is(
    perCpu.reduce((sum, { ipv4_icmp }) => sum + ipv4_icmp.packets, 0),
    5,
  );

  const maps = new Map((await show("state")).map((map) => [map.name, map]));
  assert.equal([...maps.keys()].sort(), [".bss", "events", "flows"]);
  assert.match(maps.get("events")?.unreadable ?? "", /ring buffer/);
  const flow = maps.get("flows")?.entries?.find(({ key }) => key === 0x0008);
  assert.equal(flow?.value, { length: 98, kind: "LARGE", label: "icmp" });
  assert.ok(Number(structOf(maps.get(".bss")?.entries).runs) >= 5);
  const [rodata] = await show("state", ".rodata");
  assert.is(structOf(rodata?.entries).limit, 7);

  const page = await remora("maps", "web", "state", "--bpffs", bpffs);
  assert.match(page.stdout, /^flows {2}lru_hash {2}\d of 8 {2}id \d+\n {2}shop\/web {2}eth0 {2}state, ingress 1\n/m);
  assert.match(page.stdout, "  8: length=98 kind=LARGE label=icmp\n");
  for (const line of page.stdout.split("\n")) assert.ok(line.length <= 100, line);

  const unknown = await remora("maps", "web", "nope", "--bpffs", bpffs);
  assert.is(unknown.status, 1);
  assert.match(unknown.stderr, 'shop/web has no program "nope"; its programs are: count, state');
  const map = await remora("maps", "web", "count", "nope", "--bpffs", bpffs);
  assert.match(map.stderr, 'count has no map "nope"; its maps are: totals');
  assert.is((await remora("maps", "web", "--bpffs", bpffs)).status, 2);
});

test.run();
