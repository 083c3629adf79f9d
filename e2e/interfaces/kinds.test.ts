// SPDX-License-Identifier: Apache-2.0
/** A chain on kinds of interfaces that every kernel of ours has. Everything else is tested on veth, others in kinds-above.test.ts. */
import { spawn } from "node:child_process";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { icmp, internetChecksum, ipv4 } from "../../bpf/packets.ts";
import { run } from "../lib/scratch.ts";
import { counted, done, ground, ping, podNamespace, presentPlugin } from "./ground.ts";
import { live, liveAbove } from "./life.ts";

test("macvlan", async () => {
  assert.ok(await liveAbove({ type: "macvlan", mode: "bridge" }, ["mode", "bridge"]));
});

test("the loopback, by hand", () => {
  using it = ground();
  const pod = podNamespace(it);
  const attach = ["attach", "--netns", pod.path, "--ifname", "lo", "--dir", it.programs, "--programs"];
  const refused = it.remora(...attach, "guard");
  assert.is(refused.status, 1, refused.said);
  assert.match(
    refused.said,
    /guard: at: host, .* lo is hardware, or the loopback: only a veth pair has an end at the host/,
  );
  done(it.remora(...attach, "count"));
  assert.ok(ping(pod, "127.0.0.1", 2));
  // Each is sent and received there.
  for (const direction of ["ingress", "egress"] as const) assert.is(counted(it, direction, "lo"), 4);
  done(it.remora("detach", "--netns", pod.path, "--ifname", "lo"));
  assert.equal(it.pinned(), []);
});

test("tun, which has no Ethernet header", async () => {
  using it = ground();
  const pod = podNamespace(it);
  const helper = join(it.world.dir, "tun");
  run("gcc", "-Wall", "-Wextra", "-Werror", "-o", helper, resolve(import.meta.dirname, "../../bpf/fixtures/tun.c"));
  const tun = spawn("ip", ["netns", "exec", pod.name, helper, "eth0"], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    let said = "";
    tun.stdout.on("data", (data) => {
      said += data;
    });
    const until = async (done: () => boolean) => {
      for (let round = 0; !done() && round < 400; round++) await sleep(25);
      assert.ok(done(), said);
    };
    await until(() => said.includes("ready"));
    pod.exec("ip", "address", "add", "10.95.0.1/24", "dev", "eth0");
    pod.exec("ip", "link", "set", "eth0", "up");
    const primary = presentPlugin(it, { interfaces: [{ name: "eth0", sandbox: pod.path }], ips: [] });
    await live(
      it,
      (chain) => it.network(primary, { chain }),
      pod.path,
      "tun",
      async (packets) => {
        const replies = () => said.split("\n").filter((packet) => /^45.{38}00/.test(packet)).length;
        const before = replies();
        for (let sent = 0; sent < packets; sent++) tun.stdin.write(`${echoRequest("10.95.0.2", "10.95.0.1")}\n`);
        await until(() => replies() === before + packets);
      },
    );
  } finally {
    tun.stdin.end();
  }
});

/** In hexadecimal, with a checksum that the kernel takes. */
function echoRequest(source: string, destination: string): string {
  const { bytes } = ipv4({ source, destination }, icmp());
  bytes.writeUInt16BE(internetChecksum(bytes.subarray(20)), 22);
  return bytes.toString("hex");
}

test.run();
