// SPDX-License-Identifier: Apache-2.0
/**
 * A chain on a pod's end of a netkit pair, in both of its modes: TCX hangs on it as on any device. Debian's kernels have it from
 * 6.7 on, and `npm run test:kernels` runs this file on them; another that lacks it says so.
 */
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run } from "../lib/scratch.ts";
import { executable } from "../protocol/executable.ts";
import { attachment, counted, done, ground, ping, podNamespace, presentPlugin } from "./ground.ts";

const [major = 0, minor = 0] = release().split(".").map(Number);
/** Of Debian, and new enough. */
const promised = readFileSync("/proc/version", "utf8").includes("Debian") && major * 100 + minor >= 607;
const [pod4, host4, pod6, host6] = ["10.94.0.2", "10.94.0.1", "fd94::2", "fd94::1"];

for (const mode of ["l2", "l3"])
  test(`netkit, ${mode}: a life with packets of both families, and changes that lose none of them`, async () => {
    using it = ground();
    const { host } = it;
    const pod = podNamespace(it);
    const helper = join(it.world.dir, "netkit");
    run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, join(import.meta.dirname, "fixtures/netkit.c"));
    const make = ["netns", "exec", host.name, helper, mode, "nk0", "eth0", pod.path];
    const { status, stderr } = spawnSync("ip", make, { encoding: "utf8" });
    if (status === 2) {
      assert.not(promised, "this kernel should have netkit");
      console.log("this kernel has no netkit: npm run test:kernels tries it on Linux 6.12");
      return;
    }
    assert.is(status, 0, stderr);
    for (const [namespace, ifname, ...addresses] of [
      [host, "nk0", host4, host6],
      [pod, "eth0", pod4, pod6],
    ] as const) {
      namespace.exec("ip", "address", "add", `${addresses[0]}/24`, "dev", ifname);
      namespace.exec("ip", "address", "add", `${addresses[1]}/64`, "dev", ifname, "nodad");
      namespace.exec("ip", "link", "set", ifname, "up");
    }

    const primary = presentPlugin(it, { interfaces: [{ name: "eth0", sandbox: pod.path }], ips: [] });
    const list = it.network(primary, {
      chain: [{ program: "flow-log" }, { program: "acl", params: { rules: "deny icmp" } }],
    });
    const where = attachment(pod.path);
    const added = list.add(where);
    const [made] = it.attachments();
    assert.is(made?.hook, "tcx");
    assert.not(ping(pod, host4, 1, "-W", "0.5"), "acl denies it");
    assert.ok(ping(pod, host6, 10), "acl denies IPv4 alone");
    // From the other end as well: neighbours that nobody asked for are known, where there are any.
    assert.ok(ping(host, pod6, 2));
    for (const direction of ["ingress", "egress"] as const) assert.ok(counted(it, direction) >= 12, direction);
    const flows = done(it.remora("flows", "shop/web"));
    for (const address of [host4, host6]) assert.match(flows, address);

    const apply = (...words: string[]) => done(it.remora("apply", "shop/web", "--without-node-chain", ...words));
    apply("--programs", "count");
    assert.ok(ping(pod, host4, 2));
    list.check(where, added);
    /** While this process goes on. */
    const applyAside = (...words: string[]) => {
      const argv = ["apply", "shop/web", "--without-node-chain", ...words, "--bpffs", it.bpffs];
      return promisify(execFile)("nsenter", [`--net=${host.path}`, executable, ...argv], { timeout: 60_000 });
    };

    // A packet that a change loses is a gap in the replies.
    const pings = spawn("ip", ["netns", "exec", host.name, "ping", "-i", "0.05", pod4]);
    let said = "";
    pings.stdout.on("data", (text) => {
      said += text;
    });
    const replies = () => [...said.matchAll(/icmp_seq=(\d+) /g)].map((match) => Number(match[1]));
    const until = async (done: () => boolean) => {
      for (let round = 0; !done() && round < 600; round++) await sleep(50);
      assert.ok(done(), said);
    };
    try {
      for (const words of [
        ["--programs", "count, mark-dscp", "--param", "mark-dscp.dscp=EF"],
        ["--programs", "count"],
      ]) {
        const before = replies().length;
        await until(() => replies().length > before);
        await applyAside(...words);
      }
      const before = replies().length;
      await until(() => replies().length > before);
    } finally {
      pings.kill();
      await once(pings, "close");
    }
    const seen = replies();
    assert.equal(
      seen,
      seen.map((_, place) => place + 1),
    );
    assert.ok(counted(it, "ingress") >= 1);

    // `at: host` names a place that programs on the pair can go round.
    const refused = it.remora("apply", "shop/web", "--programs", "guard");
    assert.is(refused.status, 1, refused.said);
    assert.match(
      refused.said,
      /at: host, .*eth0 is a netkit device: programs on the pair itself can redirect packets before/,
    );

    list.check(where, added);
    list.del(where, added);
    assert.equal(it.pinned(), []);
    assert.ok(ping(pod, host4, 1));
  });

test.run();
