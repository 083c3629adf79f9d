// SPDX-License-Identifier: Apache-2.0
/** A pod created by containerd comes up with its chain, packets run through it, and its end leaves nothing. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { bridge, ptp, remora, startNode } from "./node.ts";
import { attachment, entry, eventually, names, remains } from "./observe.ts";

const exact = [
  { program: "unicast", priority: 0 },
  { program: "count", priority: 1 },
];
const programs = { unicast: "proceedOn: [ok]\n" };

for (const primary of [ptp, bridge]) {
  const behind = `behind ${primary().type}`;

  test(`${behind}: a pod has the node's chain and its own programs, in order`, async () => {
    using node = await startNode({ plugins: [primary(), remora({ chain: exact })], programs });
    const pod = await node.runPod({
      name: "web",
      namespace: "shop",
      annotations: {
        "remora.io/programs":
          '[{"program":"acl","priority":7},{"program":"count","priority":8,"directions":["ingress"]}]',
        "acl.remora.io/rules": "deny egress udp any 9",
        "acl.remora.io/default_action": "allow",
      },
    });
    const [status, ...others] = node.status();
    assert.is(others.length, 0);
    assert.equal(status?.pod, { namespace: "shop", name: "web", uid: pod.uid });
    assert.is(status?.containerId, pod.id);
    assert.is(status?.ifname, "eth0");
    assert.is(status?.generation, 1);
    assert.equal(status?.degraded, []);
    assert.equal(names(status?.ingress ?? []), ["unicast", "count", "acl", "count"]);
    assert.equal(names(status?.egress ?? []), ["unicast", "count", "acl"]);
    assert.equal(
      status?.ingress.map(({ priority }) => priority),
      [0, 1, 7, 8],
    );
    assert.is(status?.egress[2]?.params.rules, "deny egress udp 9");
    await pod.remove();
    assert.equal(remains(node), []);
  });

  test(`${behind}: ping, TCP and dropped UDP are counted, packet by packet`, async () => {
    using node = await startNode({ plugins: [primary(), remora({ chain: exact })], programs });
    const server = await node.runPod({ name: "server" });
    const client = await node.runPod({
      name: "client",
      annotations: { "remora.io/programs": "acl", "acl.remora.io/rules": "deny egress udp any 9" },
    });

    const ping = await client.exec("ping", "-c", "3", "-i", "0.1", server.ip);
    assert.match(ping.stdout, "3 packets received");
    for (const pod of [client, server])
      for (const direction of ["ingress", "egress"] as const) {
        const counted = entry(node, pod, direction, "count");
        assert.is(counted.packets, 3, `${pod.name} ${direction}`);
        // 14 bytes of Ethernet, 20 of IPv4, 8 of ICMP, 56 that busybox's ping sends.
        assert.is(counted.bytes, 3 * 98, `${pod.name} ${direction}`);
      }

    await client.exec("send", server.ip, "9", "4");
    await eventually(() => assert.is(entry(node, client, "egress", "acl").ended.shot, 4));
    const acl = entry(node, client, "egress", "acl");
    assert.is(acl.packets, 7);
    assert.is(acl.proceeded, 3);
    assert.is(entry(node, client, "egress", "count").packets, 7);
    assert.is(entry(node, server, "ingress", "count").packets, 3, "no UDP packet arrived");

    await server.run("httpd", "-f", "-h", "/www");
    const page = await client.exec("wget", "-q", "-O", "-", `http://${server.ip}/`);
    assert.is(page.stdout, "hello from the other pod\n");
    await eventually(() => {
      const sent = entry(node, client, "egress", "acl").proceeded;
      assert.ok(sent >= 3 + 4, `a TCP connection is more than ${sent - 3} packets`);
      assert.is(entry(node, server, "ingress", "count").packets, sent);
      assert.is(entry(node, client, "ingress", "count").packets, entry(node, server, "egress", "count").packets);
    });
    for (const pod of [client, server])
      for (const direction of ["ingress", "egress"] as const)
        for (const each of attachment(node, pod)[direction]) {
          const ended = Object.values(each.ended).reduce((sum, packets) => sum + packets, 0);
          assert.is(each.packets, each.proceeded + ended, `${pod.name} ${direction} ${each.program}`);
          assert.is(each.ended.broken ?? 0, 0);
        }

    await client.remove();
    assert.is(node.status().length, 1, "the other pod keeps its chain");
    await server.remove();
    assert.equal(node.status(), []);
    assert.equal(remains(node), []);
  });
}

test("a pod's first packet meets the chain, as does each one after it", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: exact })], programs });
  const receiver = await node.runPod({ name: "receiver" });

  // The pod's first process sends, before any other could: nothing but the sandbox's sleep runs in it.
  const open = await node.runPod({ name: "open" });
  await open.run("send", receiver.ip, "9", "5");
  await eventually(() => assert.is(entry(node, open, "egress", "count").packets, 5));
  await eventually(() => assert.is(entry(node, receiver, "ingress", "count").packets, 5));

  const denied = await node.runPod({
    name: "denied",
    annotations: { "remora.io/programs": "acl", "acl.remora.io/rules": "deny egress udp" },
  });
  await denied.run("send", receiver.ip, "9", "5");
  await eventually(() => assert.is(entry(node, denied, "egress", "acl").ended.shot, 5));
  assert.is(entry(node, denied, "egress", "acl").packets, 5);
  assert.is(entry(node, receiver, "ingress", "count").packets, 5, "none of them arrived");
});

test.run();
