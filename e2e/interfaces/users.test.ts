// SPDX-License-Identifier: Apache-2.0
/**
 * A pod whose network belongs to a user namespace of its own (`hostUsers: false`): its chain comes, works and goes like any
 * other's, and the root of that namespace, who has every capability over the network, cannot take it away. The other ways
 * that he could try are in e2e/tamper.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readlinkSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attachment, counted, ground } from "./ground.ts";

test("a network namespace that another user namespace owns, by the path of a process", async () => {
  using it = ground();
  const owner = spawn("unshare", ["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  try {
    await once(owner.stdout, "data");
    const inside = (...argv: string[]) =>
      spawnSync("nsenter", ["--target", `${owner.pid}`, "--user", "--net", "--", ...argv], { encoding: "utf8" });
    assert.is.not(readlinkSync(`/proc/${owner.pid}/ns/user`), readlinkSync("/proc/self/ns/user"));
    const netns = `/proc/${owner.pid}/ns/net`;
    const ipam = { type: "host-local", ranges: [[{ subnet: "10.89.0.0/24" }]] };
    const chain = [{ program: "count" }, { program: "acl", params: { rules: "deny egress udp any 9" }, at: "host" }];
    const list = it.network({ type: "ptp", ipam }, { chain });
    const where = attachment(netns);
    const added = list.add(where);
    const pings = () => inside("ping", "-q", "-c", "2", "-i", "0.2", "-W", "5", "10.89.0.1").status === 0;
    assert.ok(pings());
    for (const direction of ["ingress", "egress"] as const) assert.ok(counted(it, direction) >= 2, direction);
    list.check(where, added);

    // The queueing disciplines are his; what they filter comes after the chain.
    assert.is(inside("tc", "qdisc", "add", "dev", "eth0", "clsact").status, 0);
    const pin = `${it.bpffs}/pods/c0ffee:eth0/link_egress`;
    const [link] = [JSON.parse(it.host.exec("bpftool", "-j", "link", "show", "pinned", pin))].flat() as {
      id: number;
    }[];
    const refused = inside("bpftool", "link", "detach", "id", `${link?.id}`);
    assert.match(`${refused.stdout}${refused.stderr}`, /not permitted/);
    list.check(where, added);
    const before = counted(it, "egress");
    assert.ok(pings());
    assert.ok(counted(it, "egress") >= before + 2);
    list.del(where, added);
    assert.equal(it.pinned(), []);
  } finally {
    owner.stdin.end();
    owner.kill();
  }
});

test.run();
