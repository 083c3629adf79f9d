// SPDX-License-Identifier: Apache-2.0
/**
 * Names of interfaces: the longest that a device can have, and alternative names. An interface's CNI_IFNAME may be any name
 * that the kernel knows it by; programs that are filled from it are filled all the same.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attachment, counted, done, type Ground, ground, ping, podNamespace, presentPlugin } from "./ground.ts";

/** A pod behind a pair whose end in the pod has this name, and what the plugin before us says of it. */
function paired(it: Ground, ifname: string, listed: { interfaces: object[]; ips: object[] }) {
  const pod = podNamespace(it);
  it.world.veth(
    { namespace: pod, ifname, addresses: ["10.94.0.2/24"] },
    { namespace: it.host, ifname: "host0", addresses: ["10.94.0.1/24"] },
  );
  return { pod, primary: presentPlugin(it, listed) };
}
const ours = "10.94.0.2";
const chain = [
  { program: "count" },
  { program: "acl", directions: ["egress"], at: "host", params: { rules: "deny egress udp any 9" } },
  { program: "guard" },
];
const identity = (it: Ground) =>
  it.attachments()[0]?.egress.find(({ program }) => program === "guard")?.params?.addresses;

test("a name of 15 characters", () => {
  using it = ground();
  const longest = "a23456789.12345";
  const pod = podNamespace(it);
  const ipam = { type: "host-local", ranges: [[{ subnet: "10.94.0.0/24" }]] };
  const list = it.network({ type: "ptp", ipam }, { chain });
  const where = attachment(pod.path, longest);
  const added = list.add(where);
  // A bpffs takes no dots.
  assert.equal(it.pinned(), ["pods/c0ffee:a23456789%2e12345"]);
  assert.is(identity(it), ours);
  assert.ok(ping(pod, "10.94.0.1", 2));
  assert.ok(counted(it, "ingress", longest) >= 2);
  list.check(where, added);
  done(it.remora("apply", "shop/web", "--ifname", longest, "--programs", "count"));
  list.check(where, added);
  list.del(where, added);
  assert.equal(it.pinned(), []);
});

test("an interface that has alternative names as well, as behind Cilium", () => {
  using it = ground();
  const { pod, primary } = paired(it, "eth0", { interfaces: [], ips: [] });
  pod.exec("ip", "link", "property", "add", "dev", "eth0", "altname", "cilium_cni:eth0");
  const list = it.network(primary, { chain });
  const where = attachment(pod.path);
  const added = list.add(where);
  assert.is(identity(it), ours);
  assert.ok(ping(pod, "10.94.0.1", 2));
  list.check(where, added);
  list.del(where, added);
  assert.equal(it.pinned(), []);
});

for (const [told, interfaces] of [
  ["by its alternative name", (sandbox: string) => [{ name: "net1", sandbox }]],
  ["by its first name", (sandbox: string) => [{ name: "eth7", sandbox }]],
] as const)
  test(`CNI_IFNAME is an alternative name, and the plugin before us lists the interface ${told}`, () => {
    using it = ground();
    const { pod } = paired(it, "eth7", { interfaces: [], ips: [] });
    pod.exec("ip", "link", "property", "add", "dev", "eth7", "altname", "net1");
    const primary = presentPlugin(it, {
      interfaces: interfaces(pod.path),
      ips: [{ address: "10.94.0.2/24", interface: 0 }],
    });
    const list = it.network(primary, { chain });
    const where = attachment(pod.path, "net1");
    const added = list.add(where);
    assert.equal(it.pinned(), ["pods/c0ffee:net1"]);
    assert.is(identity(it), ours);
    assert.ok(ping(pod, "10.94.0.1", 2));
    assert.ok(counted(it, "egress", "net1") >= 2);
    list.check(where, added);
    done(it.remora("detach", "--netns", pod.path, "--ifname", "net1"));
    assert.equal(it.pinned(), []);
    list.add(where);
    list.del({ ...where, netns: "" });
    assert.equal(it.pinned(), []);
  });

test.run();
