// SPDX-License-Identifier: Apache-2.0
/** `remora trace` of a pod of containerd's: an echo request passes two programs and is dropped by the third. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { bridge, ptp, remora, startNode } from "./node.ts";
import { entry, pins, remains } from "./observe.ts";

for (const primary of [ptp, bridge])
  test(`behind ${primary().type}: packets are shown hop by hop, and the chain is as before`, async () => {
    const chain = [
      { program: "count", priority: 0 },
      { program: "count", priority: 1 },
    ];
    using node = await startNode({ plugins: [primary(), remora({ chain })] });
    const web = await node.runPod({
      name: "web",
      annotations: {
        "remora.io/programs": "acl",
        "acl.remora.io/rules": "deny ingress icmp",
        "acl.remora.io/default_action": "allow",
      },
    });
    const client = await node.runPod({ name: "client" });
    await client.run("ping", web.ip);
    const before = pins(node);

    const file = join(node.dir, "web.pcapng");
    const filters = ["--proto", "icmp", "--addr", client.ip, "--only-dropped", "--count", "3"];
    const traced = node.remora("trace", "web", ...filters, "--json", "-w", file);
    assert.is(traced.status, 0, traced.stderr);
    const packets = traced.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.is(packets.length, 3);
    for (const { direction, source, destination, detail, hops, end, length } of packets) {
      assert.equal([direction, source, destination, length], ["ingress", client.ip, web.ip, 98]);
      assert.match(detail, /^echo request /);
      assert.equal(
        hops.map(({ program, verdict }: { program: string; verdict: string }) => `${program} ${verdict}`),
        ["count UNSPEC", "count UNSPEC", "acl SHOT"],
      );
      assert.equal(end, { how: "shot", why: "dropped by acl (SHOT)" });
    }
    assert.match(traced.stderr, "3 packets, 3 dropped\n");
    assert.match(readFileSync(file, "latin1"), "count UNSPEC > acl SHOT: dropped by acl (SHOT)");

    assert.equal(pins(node), before);
    const { packets: all, ended, proceeded } = entry(node, web, "ingress", "acl");
    assert.ok((ended.shot ?? 0) >= 3);
    assert.is(all, (ended.shot ?? 0) + proceeded);
    await client.remove();
    await web.remove();
    assert.equal(remains(node), []);
  });

test.run();
