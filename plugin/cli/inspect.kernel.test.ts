// SPDX-License-Identifier: Apache-2.0
/** `remora inspect --load` on the real kernel. */
import { readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { remora } from "../../e2e/lib/pod.ts";
import { scratch } from "../../e2e/lib/scratch.ts";
import type { LoadedEntry } from "./inspect-load.ts";

const text = `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
  seen SEC(".maps");
const volatile _Bool careless = 0;
SEC("tc/ingress") int count(struct __sk_buff *skb) { return bpf_map_lookup_elem(&seen, &(__u32){ 0 }) ? 0 : -1; }
SEC("tc/egress") int look(struct __sk_buff *skb)
{
	__u64 *value = bpf_map_lookup_elem(&seen, &(__u32){ 0 });
	return careless || value ? *value == 1 : 0;
}
char _license[] SEC("license") = "GPL";`;

test("entries are loaded as the parameters have them, and what is refused says why", async () => {
  using world = scratch();
  const object = join(world.dir, "seer.bpf.o");
  renameSync(world.compile({ text }), object);
  const inspect = (...argv: string[]) => remora("inspect", object, ...argv);
  const descriptors = () => readdirSync("/proc/self/fd").length;
  const before = descriptors();

  const good = await inspect("--load");
  assert.is(good.status, 0, good.stderr);
  assert.match(good.stdout, /^ {2}count +ingress +loads +\d+ +\d+ +\d+\.\d ms\n {2}look +egress +loads /m);
  const bad = await inspect("--load", "--param", "careless=true", "--json");
  assert.is(bad.status, 1);
  const [count, look] = (JSON.parse(bad.stdout) as { loaded: LoadedEntry[] }).loaded;
  assert.ok(count?.loads && (count.instructions ?? 0) > 5 && (count.verified ?? 0) > 5);
  assert.equal([look?.loads, look?.directions, look?.milliseconds], [false, ["egress"], null]);
  assert.match(look?.reason ?? "", /the verifier refused it: .*invalid mem access/);
  assert.match(look?.log ?? "", /processed \d+ insns/);
  const page = await inspect("--load", "--param", "careless=true");
  assert.match(page.stdout, /look +egress +is refused\n\n {2}program "seer", function "look": the verifier refused it/);
  for (const line of page.stdout.split("\n")) assert.ok(line.length <= 100, line);

  // The manifest's parameters count, and those of the command line more.
  writeFileSync(join(world.dir, "seer.yaml"), "params: {careless: true}\n");
  assert.is((await inspect("--load")).status, 1);
  assert.is((await inspect("--load", "--param", "careless=false")).status, 0);
  assert.is(descriptors(), before);

  for (const [argv, status, said] of [
    [["--param", "careless=true"], 2, /--param is for --load/],
    [["--load", "--param", "careless"], 2, /write PARAMETER=VALUE/],
    [["--load", "--param", "carless=1"], 1, /no parameter "carless", did you mean "careless"/],
    [["--load", "--param", "careless=maybe"], 1, /careless.*"maybe"/],
  ] as const) {
    const ended = await inspect(...argv);
    assert.is(ended.status, status);
    assert.match(ended.stderr, said);
  }
});

test.run();
