// SPDX-License-Identifier: Apache-2.0
/** What a runtime does beyond one ADD and one DEL: again, too early, too late, and after a crash. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ptp, remora, startNode } from "./node.ts";
import { addProgram, attachment, entry, remains } from "./observe.ts";

const exact = [
  { program: "unicast", priority: 0 },
  { program: "count", priority: 1 },
];
const unicastOnly = "proceedOn: [ok]\n";

test("DEL may come again and again, also side by side", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: [{ program: "count" }] })] });
  const pod = await node.runPod({ name: "web" });
  const other = await node.runPod({ name: "other" });
  await Promise.all([pod.stop(), pod.stop(), pod.stop()]);
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
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })] });
  addProgram(node, "unicast", unicastOnly);
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

test("when the namespace is gone before DEL, as after a reboot, DEL still leaves no pin", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })] });
  addProgram(node, "unicast", unicastOnly);
  const pod = await node.runPod({ name: "web" });
  assert.is.not(remains(node).length, 0);
  await node.killRuntime();
  // Inside the enclosure: all processes but its first one, then the namespace's name.
  node.exec("sh", "-c", "kill -KILL -1");
  const gone = node.exec("sh", "-c", `umount "${pod.netns}" && rm "${pod.netns}"`);
  assert.is(gone.status, 0, gone.stderr);
  await node.startRuntime();
  await pod.remove();
  assert.equal(remains(node), []);
});

test.run();
