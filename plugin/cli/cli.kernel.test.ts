// SPDX-License-Identifier: Apache-2.0
/** The commands on the real kernel: a pod with a chain, packets through it, and its end. */

import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { containerId, pod, programs, remora } from "../../e2e/lib/pod.ts";
import { run as command, scratch } from "../../e2e/lib/scratch.ts";
import type { AttachmentStatus } from "../model.ts";

test("status shows what packets met, gc takes away what its namespace left", async () => {
  using world = scratch();
  const { bpffs, outside, inside } = await pod(world, {
    "remora.io/programs": "count, acl",
    "acl.remora.io/rules": "deny ingress icmp",
    "acl.remora.io/default_action": "allow",
  });
  assert.throws(() => outside.exec("ping", "-c", "3", "-i", "0.05", "-W", "1", "10.99.0.2"));

  const json = await remora("status", "--json", "--bpffs", bpffs);
  assert.is(json.status, 0, json.stderr);
  const [status] = JSON.parse(json.stdout).attachments as AttachmentStatus[];
  assert.is(status?.containerId, containerId);
  assert.is(status?.netns, inside.path);
  assert.equal(status?.pod, { namespace: "shop", name: "web", uid: "u1" });
  const acl = status?.ingress.find(({ program }) => program === "acl");
  assert.is(acl?.ended.shot, 3);
  assert.is((acl?.packets ?? 0) - 3, acl?.proceeded);
  const count = status?.ingress.find(({ program }) => program === "count");
  assert.is(count?.proceeded, count?.packets);

  const page = await remora("status", "web", "--bpffs", bpffs);
  assert.match(page.stdout, /^shop\/web {2}eth0 {2}tcx {2}generation 1\n {2}container 3f2a9c01bd7e {2}netns /);
  assert.match(page.stdout, /acl .* shot 3\n/);
  assert.match(page.stdout, 'rules="deny ingress icmp"');
  for (const line of page.stdout.split("\n")) assert.ok(line.length <= 100, line);

  assert.match((await remora("gc", "--bpffs", bpffs)).stdout, "Nothing to remove");
  command("ip", "netns", "delete", inside.name);
  const removed = [{ network: "pods", containerId, ifname: "eth0", reason: "its interface is gone" }];
  await untilGone(bpffs);
  assert.equal(JSON.parse((await remora("gc", "--dry-run", "--json", "--bpffs", bpffs)).stdout).removed, removed);
  assert.equal(JSON.parse((await remora("gc", "--json", "--bpffs", bpffs)).stdout).removed, removed);
  assert.is((await remora("status", "--json", "--bpffs", bpffs)).stdout, '{"attachments":[]}\n');
});

/** The kernel takes a namespace's devices away a little after its last name went. */
async function untilGone(bpffs: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const { stdout } = await remora("gc", "--dry-run", "--json", "--bpffs", bpffs);
    if (JSON.parse(stdout).removed.length > 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("doctor finds that this machine can do it", async () => {
  using world = scratch();
  const { status, stdout } = await remora("doctor", "--json", "--bpffs", world.bpffs(), "--dir", programs(world));
  const { checks } = JSON.parse(stdout) as { checks: { check: string; state: string; found: string }[] };
  const states = Object.fromEntries(checks.map(({ check, state }) => [check, state]));
  for (const check of ["Linux release", "capabilities", "BPF JIT", "BPF", "TCX", "bpffs", "programs"]) {
    assert.is(states[check], "ok", stdout);
  }
  assert.is(status, checks.some(({ state }) => state === "missing") ? 1 : 0);
});

test("inspect and programs read the library's own objects", async () => {
  using world = scratch();
  const directory = programs(world);
  const object = JSON.parse((await remora("inspect", join(directory, "acl.bpf.o"), "--json")).stdout);
  assert.equal(object.chain, { able: true, reason: null });
  assert.equal(
    object.entries.map(({ direction }: { direction: string }) => direction),
    ["ingress", "egress"],
  );
  const rules = object.parameters.find(({ name }: { name: string }) => name === "rules");
  assert.is(rules.unit, "rule");
  // The help's example is one to type.
  const [, example] = /--param acl\.(\w+)=/.exec((await remora("apply", "--help")).stdout) ?? [];
  assert.ok(
    object.parameters.some(({ name }: { name: string }) => name === example),
    example,
  );

  const catalog = JSON.parse((await remora("programs", "--json", "--dir", directory)).stdout);
  assert.equal(
    catalog.programs.map(({ name }: { name: string }) => name),
    ["acl", "count"],
  );
  assert.is(catalog.programs[0].sha256, object.sha256);
  assert.equal(catalog.problems, []);
});

test("inspect says why an object cannot stand in a chain", async () => {
  using world = scratch();
  const object = world.compile({
    name: "wall",
    text: `#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int wall(struct xdp_md *ctx) { return XDP_DROP; }
char _license[] SEC("license") = "GPL";
`,
  });
  const { status, stdout } = await remora("inspect", object);
  assert.is(status, 0);
  assert.match(stdout, "cannot stand in a chain");
  assert.match(stdout, "XDP");
  const refused = await remora("inspect", import.meta.filename);
  assert.is(refused.status, 1);
  assert.match(refused.stderr, "not an ELF file");
  const folder = await remora("inspect", world.dir);
  assert.is(folder.status, 1);
  assert.ok(
    folder.stderr.startsWith(`remora inspect: ${world.dir} cannot be read: it is not a regular file`),
    folder.stderr,
  );
});

test.run();
