// SPDX-License-Identifier: Apache-2.0
/** Maps read as a whole: their entries, their types, and how they are found by id. On this machine's kernel. */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../e2e/lib/scratch.ts";
import { KernelError } from "../plugin/kernel/port.ts";
import { Chain, kernel, u32 } from "./chain.ts";

const source = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
enum colour { RED = 1, GREEN };
struct flow { __u32 source; __u16 port, zero; enum colour colour; };
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, struct flow); __type(value, __u64); }
  flows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 2); __type(key, __u32); __type(value, __u64); }
  sums SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); __uint(value_size, 4); }
  inner SEC(".maps");
__u64 seen;
SEC("tc") int handle(struct __sk_buff *skb)
{
	struct flow flow = { skb->mark, 80, 0, GREEN };
	__u64 *sum = bpf_map_lookup_elem(&sums, &(__u32){ 1 });
	seen++;
	if (sum)
		*sum += skb->len;
	bpf_map_update_elem(&flows, &flow, &seen, BPF_ANY);
	bpf_ringbuf_output(&events, &seen, sizeof(seen), 0);
	bpf_tail_call(skb, &inner, 1);
	return 0;
}
char _license[] SEC("license") = "GPL";`;

test("a program's maps, found by their ids, tell their entries and types", () => {
  using world = scratch();
  using chain = new Chain([{ object: readFileSync(world.compile({ text: source })), entry: "handle" }]);
  chain.run();
  chain.run();
  const stage = chain.stages[0] as (typeof chain.stages)[0];
  const program = kernel.openProgramById(stage.programId);
  const ids = kernel.programInfo(program).mapIds;
  kernel.close(program);
  const opened = new Map(
    ids.map((id) => {
      const fd = kernel.openMapById(id);
      return [kernel.mapInfo(fd).name, fd];
    }),
  );
  const fd = (name: string): number => opened.get(name) as number;
  try {
    const flows = kernel.mapEntries(fd("flows"), 10);
    assert.is(flows.entries.length, 1);
    assert.is(flows.more, false);
    assert.is(flows.entries[0]?.key.readUInt16LE(4), 80);
    assert.is(flows.entries[0]?.value.readBigUInt64LE(), 2n);
    const types = kernel.mapTypes(fd("flows"));
    assert.is(types?.value.kind, "int");
    assert.equal(types?.key.kind === "struct" && types.key.members.map(({ name, bitOffset }) => [name, bitOffset]), [
      ["source", 0],
      ["port", 32],
      ["zero", 48],
      ["colour", 64],
    ]);

    const sums = kernel.mapEntries(fd("sums"), 10).entries;
    assert.equal(
      sums.map(({ key }) => key.readUInt32LE()),
      [0, 1],
    );
    assert.is((sums[1]?.value.length ?? 0) % 8, 0);
    assert.is(kernel.mapEntries(fd("sums"), 1).entries.length, 1);
    assert.is(kernel.mapEntries(fd("sums"), 1).more, true);

    const variables = [...opened].find(([name]) => name.endsWith(".bss"))?.[1] as number;
    const section = kernel.mapTypes(variables)?.value;
    assert.equal(section?.kind === "struct" && section.members.map(({ name }) => name), ["seen"]);
    assert.equal(kernel.mapTypes(chain.counters), undefined);

    assert.equal(kernel.mapEntries(fd("inner"), 10), { entries: [], more: false });
    kernel.updateMap(fd("inner"), u32(2), u32(stage.program));
    assert.equal(kernel.mapEntries(fd("inner"), 10).entries, [{ key: u32(2), value: u32(stage.programId) }]);
    assert.throws(
      () => kernel.mapEntries(fd("events"), 1),
      (error: unknown) => error instanceof KernelError && error.operation === "mapEntries",
    );
  } finally {
    for (const each of opened.values()) kernel.close(each);
  }
  assert.throws(
    () => kernel.openMapById(0x7fffffff),
    (error: unknown) => error instanceof KernelError && error.code === "ENOENT",
  );
});

const crowded = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 20000); __type(key, __u64); __type(value, __u32); }
  recent SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 5000); __type(key, __u32); __type(value, __u32); }
  list SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); }
  apart SEC(".maps");
SEC("tc") int handle(struct __sk_buff *skb)
{
	__u64 key = skb->mark;
	__u32 slot = 0;
	return bpf_map_lookup_elem(&recent, &key) || bpf_map_lookup_elem(&list, &slot) || bpf_map_lookup_elem(&apart, &slot);
}
char _license[] SEC("license") = "GPL";`;

test("a map read by batches is whole", () => {
  using world = scratch();
  using chain = new Chain([{ object: readFileSync(world.compile({ text: crowded })), entry: "handle" }]);
  const fd = (name: string): number => chain.stages[0]?.maps.find((map) => map.name === name)?.fd as number;
  assert.equal(kernel.readMap(fd("recent")), { count: 0, keys: Buffer.alloc(0), values: Buffer.alloc(0) });
  const written = 9000; // more than two batches
  const key = Buffer.alloc(8);
  for (let index = 0; index < written; index++) {
    key.writeUInt32LE(index);
    kernel.updateMap(fd("recent"), key, u32(index * 3));
  }
  const recent = kernel.readMap(fd("recent"));
  assert.equal([recent.count, recent.keys.length, recent.values.length], [written, written * 8, written * 4]);
  const seen = new Set<number>();
  for (let at = 0; at < written; at++) {
    const number = recent.keys.readUInt32LE(at * 8);
    seen.add(number);
    assert.is(recent.values.readUInt32LE(at * 4), number * 3);
  }
  assert.is(seen.size, written);

  kernel.updateMap(fd("list"), u32(4999), u32(7));
  const list = kernel.readMap(fd("list"));
  assert.is(list.count, 5000);
  assert.equal([list.keys.readUInt32LE(4999 * 4), list.values.readUInt32LE(4999 * 4)], [4999, 7]);
  assert.throws(
    () => kernel.readMap(fd("apart")),
    (error: unknown) =>
      error instanceof KernelError && error.code === "EOPNOTSUPP" && /^the map was not read: /.test(error.message),
  );
});

test.run();
