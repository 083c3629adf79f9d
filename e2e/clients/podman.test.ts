// SPDX-License-Identifier: Apache-2.0
/**
 * podman with its CNI backend: a container comes up with the node's chain and leaves nothing. podman passes neither
 * annotations nor a pod's name, so what one container is to have of its own comes by `remora apply` or `remora attach`.
 */
import { existsSync, readdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { AttachmentStatus, StatusEntry } from "../../plugin/model.ts";
import { bridge, ptp, remora } from "../containerd/ground.ts";
import { entry, eventually, names, remains } from "../containerd/observe.ts";
import { traces } from "../containerd/traces.ts";
import { startPodman } from "./podman.ts";

const exact = [
  { program: "unicast", priority: 0 },
  { program: "count", priority: 1 },
];
const programs = { unicast: "proceedOn: [ok]\n" };
const denied = { program: "acl", params: { rules: "deny egress udp any 9" } };
const shot = ({ ended }: StatusEntry): number => ended.shot ?? 0;

for (const primary of [ptp, bridge])
  test(`behind ${primary().type}: a container has the node's chain from its first packet on, and leaves nothing`, async () => {
    let dir: string;
    {
      using node = await startPodman({ plugins: [primary(), remora({ chain: [...exact, denied] })], programs });
      dir = node.dir;
      assert.match(node.podman("--version").stdout, /^podman version 4\.3\./);
      const backend = node.podman("info", "--format={{.Host.NetworkBackend}}").stdout.trim();
      assert.is(backend, "cni");

      const server = node.run("server");
      const [status, ...others] = node.status();
      assert.equal(others, []);
      const { containerId, ifname, pod, generation, degraded } = status as AttachmentStatus;
      assert.equal([containerId, ifname, pod, generation, degraded], [server.id, "eth0", null, 1, []]);
      assert.is(status?.netns, server.netns);
      for (const direction of ["ingress", "egress"] as const)
        assert.equal(names(status?.[direction] ?? []), ["unicast", "count", "acl"]);

      // The container's only process sends: nothing but the chain could have been there before it.
      const first = node.run("first", "/bin/sh", "-c", `send ${server.ip} 9 5; exec sleep 2147483647`);
      await eventually(() => assert.is(shot(entry(node, first, "egress", "acl")), 5));
      assert.is(entry(node, first, "egress", "count").packets, 5);
      assert.is(entry(node, server, "ingress", "count").packets, 0, "none of them arrived");

      assert.match(first.exec("ping", "-c", "3", "-i", "0.1", server.ip), "3 packets received");
      for (const direction of ["ingress", "egress"] as const)
        assert.is(entry(node, server, direction, "count").packets, 3);

      first.remove();
      assert.equal(
        node.status().map((each) => each.containerId),
        [server.id],
      );
      server.remove();
      assert.equal(remains(node), []);
    }
    assert.equal(traces(dir), []);
  });

test("an annotation does not reach Remora; `apply` gives a running container a chain of its own", async () => {
  using node = await startPodman({ plugins: [ptp(), remora({ chain: exact })], programs });
  const web = node.runWith(["--annotation=remora.io/programs=acl"], "web");
  const other = node.run("other");
  const chain = (): string[] => names(node.status(web.id)[0]?.egress ?? []);
  assert.equal(chain(), ["unicast", "count"]);
  const applied = node.remora("apply", web.id, "--programs", "acl", "--param", "acl.rules=deny egress udp any 9");
  assert.is(applied.status, 0, applied.stderr);
  assert.equal(chain(), ["unicast", "count", "acl"]);
  web.exec("send", other.ip, "9", "4");
  await eventually(() => assert.is(shot(entry(node, web, "egress", "acl")), 4));
  web.remove();
  other.remove();
  assert.equal(remains(node), []);
});

test("a container from before Remora is given its chain by `attach`, which `gc` collects after it", async () => {
  using node = await startPodman({ plugins: [ptp()] });
  const web = node.run("web");
  const where = ["--netns", web.netns, "--ifname", "eth0", "--container", web.id, "--dir", node.programs];
  const attached = node.remora("attach", ...where, "--programs", "count");
  assert.is(attached.status, 0, attached.stderr);
  assert.is(node.exec("ping", "-c", "2", "-i", "0.1", "-q", web.ip).status, 0);
  assert.ok(entry(node, web, "ingress", "count").packets >= 2);
  web.remove();
  assert.is.not(remains(node).length, 0, "no DEL of Remora's ran");
  const collected = node.remora("gc");
  assert.is(collected.status, 0, collected.stderr);
  assert.equal(remains(node), []);
});

test("stopped and started again, a container has its chain anew, and only once", async () => {
  using node = await startPodman({ plugins: [ptp(), remora({ chain: [{ program: "count" }] })] });
  const web = node.run("web");
  assert.is(node.podman("stop", "--time=0", web.id).status, 0);
  assert.equal(remains(node), [], "a stopped container has no network");
  assert.is(node.podman("start", web.id).status, 0);
  const [status, ...others] = node.status();
  assert.equal(others, []);
  assert.is(status?.containerId, web.id);
  assert.is.not(status?.netns, web.netns);
  assert.equal(names(status?.ingress ?? []), ["count"]);
  web.remove();
  assert.equal(remains(node), []);
});

test("a chain that cannot be had fails `podman run` with the reason, and nothing stays", async () => {
  using node = await startPodman({ plugins: [ptp(), remora({ chain: [{ program: "acll" }] })] });
  assert.throws(() => node.run("web"), /plugin type="remora" failed \(add\).*acll/s);
  assert.equal(node.status(), []);
  assert.equal(remains(node), []);
});

test("nothing of a node is left when its block ends, running containers included", async () => {
  const outside = (): string[] =>
    ["/dev/shm", "/run", "/var/lib", "/etc/cni"].flatMap((folder) =>
      (existsSync(folder) ? readdirSync(folder) : []).filter((name) => /libpod|podman|containers|net\.d/.test(name)),
    );
  const before = outside();
  let dir: string;
  {
    using node = await startPodman({ plugins: [bridge(), remora({ chain: [{ program: "count" }] })] });
    dir = node.dir;
    node.run("abandoned");
    assert.equal(outside(), before, "the machine's own podman is not touched");
    assert.is.not(traces(dir).length, 0);
  }
  assert.equal(traces(dir), []);
});

test.run();
