// SPDX-License-Identifier: Apache-2.0
/** A pod with several interfaces, as Multus makes them: each has its own chain and its own end, and commands tell them apart. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attachment, containerId, counted, done, ground, ping, podNamespace, presentPlugin } from "./ground.ts";

test("a chain for each of a pod's interfaces", () => {
  using it = ground();
  const pod = podNamespace(it);
  const ptp = (third: number) => ({
    type: "ptp",
    ipam: { type: "host-local", ranges: [[{ subnet: `10.92.${third}.0/24` }]] },
  });
  const denied = (rules: string) => [{ program: "acl", params: { rules } }];
  // Two attachments to one network and one to another.
  const pods = it.network(ptp(0));
  const podsAgain = it.network(ptp(2), { chain: denied("deny icmp") });
  const second = it.network(ptp(1), { name: "second", chain: [{ program: "count" }, { program: "flow-log" }] });
  const [eth0, net1, net2] = ["eth0", "net1", "net2"].map((ifname) => attachment(pod.path, ifname)) as [
    ReturnType<typeof attachment>,
    ReturnType<typeof attachment>,
    ReturnType<typeof attachment>,
  ];
  const added = pods.add(eth0);
  const addedToo = podsAgain.add(net1);
  const addedElsewhere = second.add(net2);
  const all = ["pods/c0ffee:eth0", "pods/c0ffee:net1", "second/c0ffee:net2"];
  assert.equal(it.pinned(), all);

  assert.ok(ping(pod, "10.92.0.1", 2));
  assert.not(ping(pod, "10.92.2.1", 1, "-W", "0.3"));
  assert.ok(ping(pod, "10.92.1.1", 2));
  for (const ifname of ["eth0", "net2"]) assert.ok(counted(it, "ingress", ifname) >= 2, ifname);
  pods.check(eth0, added);
  podsAgain.check(net1, addedToo);
  second.check(net2, addedElsewhere);

  const shown = done(it.remora("status", "shop/web"));
  for (const ifname of ["eth0", "net1", "net2"]) assert.match(shown, new RegExp(`^shop/web  ${ifname} `, "m"));
  // What shows, shows all of them; what changes one, wants to know which.
  const maps = JSON.parse(done(it.remora("maps", "shop/web", "count", "--json"))).maps as { ifname: string }[];
  assert.equal([...new Set(maps.map(({ ifname }) => ifname))], ["eth0", "net2"]);
  const flows = done(it.remora("flows", "shop/web"));
  assert.match(flows, /icmp/);
  for (const command of [
    ["apply", "shop/web", "--programs", "count"],
    ["detach", "shop/web"],
  ]) {
    const { status, said } = it.remora(...command);
    assert.is(status, 1, said);
    assert.match(
      said,
      /several chains, on eth0 \(network pods\), net1 \(network pods\), net2 \(network second\): say which with --ifname/,
    );
  }
  const unknown = it.remora("apply", "shop/web", "--ifname", "net7", "--programs", "count");
  assert.match(unknown.said, /has no chain on interface net7: it has eth0 \(network pods\), net1/);
  done(it.remora("apply", "shop/web", "--ifname", "net1", "--without-node-chain", "--programs", "count"));
  assert.ok(ping(pod, "10.92.2.1", 2));

  // A chain by hand beside them is another container's: no command could tell it from theirs.
  const byHand = ["attach", "--netns", pod.path, "--ifname", "eth0", "--dir", it.programs, "--programs", "count"];
  const { status, said } = it.remora(...byHand, "--container", containerId);
  assert.is(status, 1, said);
  assert.match(said, /eth0 of container c0ffee has a chain already, of network pods: change it with remora apply/);
  done(it.remora(...byHand));
  assert.is(it.pinned().length, all.length + 1);
  done(it.remora("detach", "--netns", pod.path, "--ifname", "eth0"));
  assert.equal(it.pinned(), all);

  // Each goes alone: by DEL, by a collection of its network, by hand.
  podsAgain.del(net1, addedToo);
  assert.equal(it.pinned(), [all[0], all[2]]);
  pods.check(eth0, added);
  podsAgain.add(net1);
  // Debian's ptp is older than GC.
  it.network(presentPlugin(it, {}), { cniVersion: "1.1.0" }).gc([{ containerID: containerId, ifname: "eth0" }]);
  assert.equal(it.pinned(), [all[0], all[2]]);
  pods.check(eth0, added);
  second.check(net2, addedElsewhere);
  done(it.remora("detach", "shop/web", "--ifname", "eth0"));
  assert.equal(it.pinned(), [all[2]]);
  second.del(net2);
  assert.equal(it.pinned(), []);
});

test.run();
