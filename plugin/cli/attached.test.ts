// SPDX-License-Identifier: Apache-2.0
/** `status` and `gc` over attachments that the chain made, in the fake kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { attach } from "../chain/attach.ts";
import { bpffs, id, input, machine, netns, select } from "../chain/fixture.ts";
import { pinsOf } from "../chain/pins.ts";
import { plan } from "../chain/plan.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { run } from "./run.ts";

async function remora(kernel: FakeKernel, ...argv: string[]) {
  let stdout = "";
  let stderr = "";
  const io = {
    stdout(text: string) {
      stdout += text;
    },
    stderr(text: string) {
      stderr += text;
    },
    isTerminal: false,
    columns: 0,
  };
  const status = await run(argv, io, { kernel: async () => kernel, root: "/nowhere" });
  return { status, stdout, stderr };
}

function attached(): FakeKernel {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [select(kernel, "count", { directions: ["ingress"] })])));
  return kernel;
}

test("status --json has exactly the promised keys", async () => {
  const { status, stdout } = await remora(attached(), "status", "--json");
  assert.is(status, 0);
  const { attachments } = JSON.parse(stdout);
  assert.is(attachments.length, 1);
  assert.equal(Object.keys(attachments[0]), [
    "containerId",
    "netns",
    "ifname",
    "pod",
    "hook",
    "generation",
    "degraded",
    "ingress",
    "egress",
  ]);
  assert.equal(attachments[0].pod, { namespace: "default", name: "web", uid: "u1" });
  assert.equal(Object.keys(attachments[0].ingress[0]), [
    "program",
    "at",
    "version",
    "sha256",
    "priority",
    "params",
    "packets",
    "bytes",
    "proceeded",
    "ended",
  ]);
});

test("status of one pod, by each of its names", async () => {
  const kernel = attached();
  for (const selector of ["web", "default/web", id.containerId, "c0"]) {
    const { status, stdout } = await remora(kernel, "status", selector);
    assert.is(status, 0, selector);
    assert.match(stdout, /^default\/web {2}eth0 {2}tcx {2}generation 1\n/);
    assert.match(stdout, /^ {2}ingress {2}count {4}1\.0/m);
  }
  assert.equal(await remora(kernel, "status", "db"), {
    status: 1,
    stdout: "",
    stderr: `remora status: no pod or container "db"; attached are:\n  default/web  container ${id.containerId}\n`,
  });
});

test("detach: no ambiguous beginning and none that is too short; candidates are listed", async () => {
  const kernel = attached();
  const before = kernel.files();
  const other = { ...id, containerId: "c0ffee.2" };
  attach(kernel, plan(input(kernel, [select(kernel, "count")], { id: other, pod: null })));
  assert.equal(await remora(kernel, "detach", "c0ffee"), {
    status: 1,
    stdout: "",
    stderr:
      'remora detach: "c0ffee" names 2 pods; say namespace/name or more of the container id\n' +
      "  default/web  container c0ffee.1\n  container c0ffee.2\n",
  });
  await remora(kernel, "detach", "c0ffee.2");
  assert.equal(kernel.files(), before);
  for (const command of [
    ["detach", "c0f"],
    ["apply", "c0f", "--programs", ","],
  ]) {
    const { status, stderr } = await remora(kernel, ...command);
    assert.is(status, 1);
    assert.match(stderr, /takes at least 4 characters of a container id; it is the beginning of:\n {2}default\/web/);
  }
  assert.equal(kernel.files(), before);
  assert.is((await remora(kernel, "detach", "c0ff")).status, 0);
  assert.equal(kernel.left(), []);
});

test("a pod with two sandboxes, of which one is dead: the container id tells which, not the interface", async () => {
  const kernel = attached();
  const again = { ...id, containerId: "decade" };
  attach(kernel, plan(input(kernel, [select(kernel, "count")], { id: again })));
  const { status, stderr } = await remora(kernel, "detach", "web");
  assert.is(status, 1);
  assert.is(
    stderr,
    'remora detach: "web" has several chains: eth0 of container c0ffee.1, eth0 of container decade: say which by its container id\n',
  );
  assert.is((await remora(kernel, "detach", "deca")).status, 0);
  assert.is((await remora(kernel, "detach", "web")).status, 0);
  assert.equal(kernel.left(), []);
});

test("detach: each thing that could not be removed has a line, and no stack", async () => {
  const kernel = attached();
  kernel.interfere = (operation) => {
    if (/^removePin .*(link_ingress|counters)/.test(operation)) kernel.failAt(0, "EPERM");
  };
  const { status, stdout, stderr } = await remora(kernel, "detach", "web");
  assert.equal([status, stdout], [1, ""]);
  const [first, ...rest] = stderr.trimEnd().split("\n");
  assert.match(first ?? "", /^remora detach: \d+ operations failed:$/);
  assert.ok(rest.length > 2);
  for (const line of rest) assert.match(line, /^ {2}(operation \d+, removePin |\/sys\/fs\/bpf\/)/);
  kernel.interfere = undefined;
  assert.is((await remora(kernel, "gc")).status, 0);
  assert.equal(kernel.left(), []);
});

test("what cannot be read of one pod keeps no other from being changed", async () => {
  const kernel = attached();
  const broken = { ...id, containerId: "bad0" };
  attach(kernel, plan(input(kernel, [select(kernel, "count")], { id: broken, pod: null })));
  const { record } = pinsOf(bpffs, broken);
  kernel.removePin(record);
  const fd = kernel.createMap({ type: "array", name: "x", keySize: 4, valueSize: 8, maxEntries: 1 });
  kernel.pin(fd, record);
  kernel.close(fd);
  const shown = await remora(kernel, "apply", "bad0", "--programs", ",");
  assert.is(shown.status, 1);
  assert.match(shown.stderr, /^remora apply: the record .*bad0:eth0\/record cannot be understood/);
  // Nor from being detached, and it can be itself.
  assert.equal((await remora(kernel, "detach", "web")).stderr, "");
  assert.ok(kernel.files().every((path) => !path.includes("c0ffee")));
  assert.equal((await remora(kernel, "detach", "bad0")).stderr, "");
  assert.equal(kernel.left(), []);
});

test("gc leaves what is in use", async () => {
  const kernel = attached();
  const before = kernel.left();
  assert.is((await remora(kernel, "gc")).stdout, "Nothing to remove: all that is attached is in use.\n");
  assert.equal(kernel.left(), before);
});

test("gc --dry-run says what gc then does, and does not do it", async () => {
  const kernel = attached();
  kernel.removeNamespace(netns);
  const before = kernel.left();
  const removed = [{ ...id, reason: "its interface is gone" }];
  const dry = await remora(kernel, "gc", "--dry-run", "--json");
  assert.equal(JSON.parse(dry.stdout), { dryRun: true, removed, settled: [], failed: [], kept: [] });
  assert.equal(kernel.left(), before);
  const wet = await remora(kernel, "gc", "--json");
  assert.is(wet.status, 0);
  assert.equal(JSON.parse(wet.stdout), { dryRun: false, removed, settled: [], failed: [], kept: [] });
  assert.equal((await remora(kernel, "status", "--json")).stdout, '{"attachments":[]}\n');
  assert.is(kernel.files().filter((path) => path.startsWith(`${bpffs}/podnet/`)).length, 0);
});

test("gc goes on over what it cannot remove, and its exit status says so", async () => {
  const kernel = attached();
  kernel.removeNamespace(netns);
  kernel.interfere = (operation) => {
    if (operation.startsWith("removePin")) kernel.failAt(1, "EPERM");
  };
  const { status, stdout } = await remora(kernel, "gc", "--json");
  assert.is(status, 1);
  assert.is(JSON.parse(stdout).failed.length, 1);
});

test.run();
