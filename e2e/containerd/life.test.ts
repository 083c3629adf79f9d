// SPDX-License-Identifier: Apache-2.0
/** What a runtime does beyond one ADD and one DEL: again, too early, too late, and after a crash. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Node, ptp, remora, startNode } from "./node.ts";
import { attachment, entry, eventually, pins, remains } from "./observe.ts";
import type { Pod } from "./pod.ts";

const exact = [
  { program: "unicast", priority: 0 },
  { program: "count", priority: 1 },
];
const programs = { unicast: "proceedOn: [ok]\n" };

test("DEL may come again and again, also side by side", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: [{ program: "count" }] })] });
  const pod = await node.runPod({ name: "web" });
  const other = await node.runPod({ name: "other" });
  // ptp itself may trip over its twin ("no such device"); that is its own, and the runtime comes again.
  for (const stopped of await Promise.allSettled([pod.stop(), pod.stop(), pod.stop()]))
    if (stopped.status === "rejected") assert.match(String(stopped.reason), /plugin type="ptp" failed \(delete\)/);
  await pod.stop();
  await pod.remove();
  assert.equal(
    node.status().map(({ containerId }) => containerId),
    [other.id],
  );
  await other.remove();
  assert.equal(remains(node), []);
});

test("when a plugin behind Remora fails, nothing of the pod stays", async () => {
  const failing = { type: "tuning", sysctl: { "net.ipv4.no_such_setting": "1" } };
  using node = await startNode({ plugins: [ptp(), remora({ chain: [{ program: "count" }] }), failing] });
  const message = await node.runPod({ name: "web" }).then(
    () => "the pod came up",
    (error: Error) => error.message,
  );
  assert.match(message, /plugin type="tuning" failed \(add\)/);
  assert.equal(node.status(), []);
  assert.equal(remains(node), []);
});

test("plugins before and behind Remora see its chain pass their results on", async () => {
  const last = { type: "tuning", sysctl: { "net.ipv4.conf.IFNAME.forwarding": "1" } };
  using node = await startNode({
    plugins: [ptp(), { type: "tuning" }, remora({ chain: [{ program: "count" }] }), last],
  });
  const pod = await node.runPod({ name: "web" });
  assert.match(pod.ip, /^10\.77\.0\./);
  assert.is((await pod.exec("cat", "/proc/sys/net/ipv4/conf/eth0/forwarding")).stdout, "1\n");
  await pod.remove();
  assert.equal(remains(node), []);
});

test("a chain goes on while containerd is dead, and the next containerd takes it down", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })], programs });
  const pod = await node.runPod({ name: "web" });
  const ping = () => node.exec("ping", "-c", "2", "-i", "0.1", "-q", pod.ip);
  assert.is(ping().status, 0);
  assert.is(entry(node, pod, "ingress", "count").packets, 2);
  await node.killRuntime();
  assert.is(ping().status, 0);
  assert.is(entry(node, pod, "ingress", "count").packets, 4);
  await node.startRuntime();
  assert.is(ping().status, 0);
  const { generation, ingress } = attachment(node, pod);
  assert.is(generation, 1);
  assert.is(ingress[1]?.packets, 6);
  await pod.remove();
  assert.equal(remains(node), []);
});

/** As after a power cut: no containerd, no process of a pod, no namespace. */
async function cutPower(node: Node, pods: Pod[]): Promise<void> {
  await node.killRuntime();
  // All processes of the enclosure but its first one.
  node.exec("sh", "-c", "kill -KILL -1");
  for (const { netns } of pods) {
    const gone = node.exec("sh", "-c", `umount "${netns}" && rm "${netns}"`);
    assert.is(gone.status, 0, gone.stderr);
  }
}

test("when the namespace is gone before DEL, as after a reboot, DEL still leaves no pin", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })], programs });
  const pod = await node.runPod({ name: "web" });
  assert.is.not(remains(node).length, 0);
  await cutPower(node, [pod]);
  await node.startRuntime();
  await pod.remove();
  assert.equal(remains(node), []);
});

test("what no DEL ever comes for, `remora gc` collects, and only that", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })], programs });
  const lost = await node.runPod({ name: "lost" });
  await cutPower(node, [lost]);
  await node.startRuntime();
  const living = await node.runPod({ name: "living" });
  await eventually(() => {
    const { status, stdout, stderr } = node.remora("gc", "--json");
    assert.is(status, 0, stderr);
    const { removed } = JSON.parse(stdout) as { removed: { containerId: string }[] };
    assert.equal(
      removed.map(({ containerId }) => containerId),
      [lost.id],
    );
  });
  assert.equal(
    node.status().map(({ containerId }) => containerId),
    [living.id],
  );
  await lost.remove();
  await living.remove();
  assert.equal(remains(node), []);
});

test("containerd killed during an ADD: what that ADD attached goes with the pod's DEL or with `remora gc`", async () => {
  // A plugin that takes its time: passes prevResult on (libcni sorts the keys) once the file `go` is there.
  const slow = `config=$(cat)
[ "$CNI_COMMAND" = ADD ] || exit 0
touch "$here/reached"
while [ ! -e "$here/go" ]; do sleep 0.05; done
printf %s "$config" | sed 's/.*"prevResult":\\(.*\\),"type":"slow".*/\\1/'`;
  const plugins = [ptp(), remora({ chain: exact }), { type: "slow" }];
  using node = await startNode({ plugins, programs, scripts: { slow } });
  const asked = node.runPod({ name: "web" }).then(
    () => "the pod came up",
    () => "failed",
  );
  await eventually(() => assert.ok(existsSync(join(node.dir, "reached"))));
  const [attached] = node.status();
  assert.is(attached?.pod?.name, "web");
  await node.killRuntime();
  assert.is(await asked, "failed");
  assert.is(node.status().length, 1, "the orphaned ADD has not ended, and its chain is in place");
  writeFileSync(join(node.dir, "go"), "");
  await node.startRuntime();
  // What the kubelet does with sandboxes that it knows nothing of.
  for (const { id } of (await node.cri.call("ListPodSandbox", {})).items) {
    await node.cri.call("StopPodSandbox", { podSandboxId: id });
    await node.cri.call("RemovePodSandbox", { podSandboxId: id });
  }
  // containerd may have forgotten that sandbox altogether; then an administrator removes its namespace, if containerd has
  // not done that either (version 1.7 has).
  if (node.status().length > 0) {
    const gone = node.exec("sh", "-c", `[ ! -e "$0" ] || { umount "$0" && rm "$0"; }`, attached?.netns ?? "");
    assert.is(gone.status, 0, gone.stderr);
    await eventually(() => {
      assert.is(node.remora("gc").status, 0);
      assert.equal(pins(node), []);
    });
  }
  assert.equal(node.status(), []);
  assert.equal(pins(node), []);
  const next = await node.runPod({ name: "web" });
  await next.remove();
});

test.run();
