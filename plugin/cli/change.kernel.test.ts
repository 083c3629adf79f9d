// SPDX-License-Identifier: Apache-2.0
/** `apply`, `attach` and `detach` on the real kernel. */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pod, programs, remora } from "../../e2e/lib/pod.ts";
import { run as command, type Namespace, scratch } from "../../e2e/lib/scratch.ts";
import type { Change } from "../chain/changes.ts";
import type { AttachmentStatus } from "../model.ts";

function ping(from: Namespace, count: number): number {
  const script = `ping -q -n -c ${count} -i 0.02 -W 1 10.99.0.2 || true`;
  return Number(/(\d+) received/.exec(from.exec("sh", "-c", script))?.[1]);
}

async function statusOf(bpffs: string): Promise<AttachmentStatus> {
  const { stdout } = await remora("status", "--json", "--bpffs", bpffs);
  const [status, other] = JSON.parse(stdout).attachments as AttachmentStatus[];
  assert.is(other, undefined);
  assert.ok(status);
  return status;
}
const names = ({ ingress }: AttachmentStatus): string[] => ingress.map(({ program }) => program);
const words = (changes: Change[]): string[] =>
  changes.map(
    ({ direction, program, change, from, to, details }) =>
      `${direction} ${program} ${change} ${from} ${to} ${details.join(", ")}`,
  );

test("apply: another chain, the same chain, a dry run, and what is refused", async () => {
  using world = scratch();
  const { bpffs, outside } = await pod(world, { "remora.io/programs": "count" });
  const apply = (...more: string[]) => remora("apply", "web", "--bpffs", bpffs, ...more);
  assert.is(ping(outside, 5), 5);
  const before = (await statusOf(bpffs)).ingress[0]?.packets ?? 0;
  assert.ok(before >= 5);

  const deny = [
    "--programs",
    "acl, count",
    "--param",
    "acl.rules=deny ingress icmp",
    "--param",
    "acl.default_action=allow",
  ];
  const dry = await apply(...deny, "--dry-run");
  assert.is(dry.status, 0, dry.stderr);
  assert.match(dry.stdout, /added +ingress +acl +0\n +version \w{12}, .*rules deny ingress icmp/);
  assert.match(dry.stdout, /nothing was changed \(--dry-run\)/);
  assert.is((await statusOf(bpffs)).generation, 1);

  const done = await apply(...deny);
  assert.is(done.status, 0, done.stderr);
  assert.match(done.stdout, /shop\/web eth0: generation 1 -> 2, without loss\./);
  for (const line of done.stdout.split("\n")) assert.ok(line.length <= 100, line);
  assert.is(ping(outside, 2), 0);
  const denied = await statusOf(bpffs);
  assert.equal(names(denied), ["acl", "count"]);
  assert.ok((denied.ingress[1]?.packets ?? 0) >= before, "counters go on");

  const same = JSON.parse((await apply(...deny, "--json")).stdout);
  assert.equal([same.changed, same.generation, same.changes], [false, 2, []]);

  const allowed = await apply("--programs", "count,acl", "--param", "acl.default_action=allow", "--json");
  assert.equal(words(JSON.parse(allowed.stdout).changes), [
    "ingress acl moved 0 1 rules deny ingress icmp -> default",
    "egress acl moved 0 1 rules deny ingress icmp -> default",
  ]);
  assert.is(ping(outside, 3), 3);

  for (const [argv, status, said] of [
    [["--programs", "cuont"], 1, /--programs: this node has no program "cuont"/],
    [["--programs", "acl", "--param", "acl.rules=deny everything"], 1, /--param acl\.rules: /],
    [
      ["--programs", "count", "--param", "acl.rules=deny"],
      1,
      /--param acl\.rules: program "acl" is not selected by --programs/,
    ],
    [["--programs", "acl", "--param", "acl"], 2, /--param acl: write PROGRAM\.PARAMETER=VALUE/],
    [["--programs", "count", "--ifname", "eth7"], 1, /no chain on interface eth7: it has eth0/],
    [[], 2, /--programs LIST/],
  ] as const) {
    const refused = await apply(...argv);
    assert.is(refused.status, status, refused.stderr);
    assert.match(refused.stderr, said);
  }
  assert.is((await statusOf(bpffs)).generation, 3);
  assert.is(ping(outside, 3), 3);
});

test("apply: a program that the verifier refuses leaves the old chain; its next version is loaded", async () => {
  using world = scratch();
  const { bpffs, outside, programDir } = await podWith(world);
  const write = (body: string): void => {
    const object = world.compile({
      name: "edited",
      text: `#include <linux/bpf.h>
        #include <linux/pkt_cls.h>
        #include <bpf/bpf_helpers.h>
        SEC("tc") int edited(struct __sk_buff *skb) { ${body} }
        char _license[] SEC("license") = "GPL";`,
    });
    command("cp", object, programDir);
  };
  const apply = (...more: string[]) =>
    remora("apply", "web", "--bpffs", bpffs, "--programs", "count,edited", "--dir", programDir, ...more);
  write("return TC_ACT_OK;");
  assert.is((await apply()).status, 0);
  write("return *(volatile int *)(long)skb->mark;");
  const refused = await apply();
  assert.is(refused.status, 1);
  assert.match(refused.stderr, /edited .* in the \w+ chain: .*invalid mem access/);
  assert.is((await statusOf(bpffs)).generation, 2);
  assert.is(ping(outside, 3), 3);
  write("return TC_ACT_SHOT;");
  const changes = JSON.parse((await apply("--json")).stdout).changes as Change[];
  assert.match(words(changes)[0] ?? "", /^ingress edited changed 1 1 version \w{12} -> \w{12}/);
  assert.is(ping(outside, 1), 0);
});

async function podWith(world: ReturnType<typeof scratch>) {
  const made = await pod(world, { "remora.io/programs": "count" });
  return { ...made, programDir: programs(world) };
}

test("attach and detach by hand: seen by status, changed by apply, gone without a trace", async () => {
  using world = scratch();
  const [inside, outside] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: inside, ifname: "eth0", addresses: ["10.99.0.2/24"] },
    { namespace: outside, ifname: "veth0", addresses: ["10.99.0.1/24"] },
  );
  const bpffs = `${world.bpffs()}/remora`;
  const dir = programs(world);
  const where = ["--netns", inside.path, "--ifname", "eth0", "--bpffs", bpffs];
  const attached = await remora("attach", ...where, "--programs", "count", "--dir", dir, "--json");
  assert.is(attached.status, 0, attached.stderr);
  const { containerId, network } = JSON.parse(attached.stdout);
  assert.is(network, "manual");
  assert.match(containerId, /^netns-\d+$/);
  const status = await statusOf(bpffs);
  assert.equal([status.containerId, status.pod, names(status)], [containerId, null, ["count"]]);

  const again = await remora("attach", ...where, "--programs", "count", "--dir", dir);
  assert.match(again.stderr, /already: change it with remora apply/);
  const applied = await remora("apply", containerId, "--programs", "acl,count", "--bpffs", bpffs);
  assert.is(applied.status, 0, applied.stderr);
  assert.equal(names(await statusOf(bpffs)), ["acl", "count"]);
  assert.match((await remora("gc", "--bpffs", bpffs)).stdout, /Nothing to remove/);

  assert.is((await remora("detach", "--netns", outside.path, "--ifname", "veth0", "--bpffs", bpffs)).status, 1);
  assert.is((await remora("detach", ...where)).status, 0);
  assert.equal(
    readdirSync(join(bpffs, "..")).filter((name) => !name.endsWith(".debug")),
    [],
  );
  assert.is(ping(outside, 2), 2);

  await remora("attach", ...where, "--programs", "count", "--dir", dir, "--container", "by-name");
  assert.is((await remora("detach", "by-n", "--bpffs", bpffs)).status, 0);

  await remora("attach", ...where, "--programs", "count", "--dir", dir);
  // The record of another attachment is damaged.
  const other = join(bpffs, "manual/damaged:eth0");
  mkdirSync(other);
  command("bpftool", "map", "create", join(other, "record"), ..."type array key 4 value 8 entries 1 name x".split(" "));
  const elsewhere = await remora("detach", "--netns", outside.path, "--ifname", "veth0", "--bpffs", bpffs);
  assert.is(elsewhere.status, 1);
  assert.match(elsewhere.stderr, /no chain is attached to veth0 .*; not to be read is the record of damaged \(/);
  assert.is((await remora("detach", ...where)).status, 0);
  assert.equal(readdirSync(join(bpffs, "manual")), ["damaged:eth0"]);

  for (const [argv, said] of [
    [["attach", "--netns", inside.path, "--programs", "count"], /--ifname NAME/],
    [["attach", ...where, "--programs", ","], /lists none/],
    [["detach"], /Give a container, or --netns/],
    [["detach", "x", "--netns", "/y"], /Give a container, or --netns/],
  ] as const) {
    const wrong = await remora(...argv);
    assert.is(wrong.status, 2, wrong.stderr);
    assert.match(wrong.stderr, said);
  }
  for (const [netns, said] of [
    ["/dev/null", /names no network namespace/],
    [outside.path, /there is no interface eth0/],
  ] as const)
    assert.match(
      (
        await remora(
          "attach",
          "--netns",
          netns,
          "--ifname",
          "eth0",
          "--programs",
          "count",
          "--dir",
          dir,
          "--bpffs",
          bpffs,
        )
      ).stderr,
      said,
    );
});

test("a program whose object brings tables that only others in it use can be changed like any", async () => {
  const agent = `#include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u32); }
      of_the_probe SEC(".maps"), of_both SEC(".maps");
    SEC("kprobe/remora_has_no_such_function") int probe(void *ctx)
    {
      return !bpf_map_lookup_elem(&of_the_probe, &(__u32){ 1 });
    }
    SEC("tc") int watch(struct __sk_buff *skb)
    {
      return bpf_map_lookup_elem(&of_both, &(__u32){ 1 }) ? 0 : -1;
    }
    char _license[] SEC("license") = "GPL";`;
  using world = scratch();
  const { bpffs } = await pod(world, { "remora.io/programs": "agent" }, { agent });
  const done = await remora("apply", "web", "--bpffs", bpffs, "--programs", "count, agent");
  assert.is(done.status, 0, done.stderr);
  assert.equal(names(await statusOf(bpffs)), ["count", "agent"]);
});

test.run();
