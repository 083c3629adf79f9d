// SPDX-License-Identifier: Apache-2.0
/** The executable, many times at once: on pods of their own, and on one and the same. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code } from "../../plugin/errors.ts";
import type { AttachmentStatus } from "../../plugin/model.ts";
import { run, type Scratch, scratch } from "../lib/scratch.ts";
import { executable } from "../protocol/executable.ts";
import { programFolder } from "../protocol/pod.ts";

interface Place {
  /** Calls a verb on a container; the error's code, or 0. Throws for an answer that is none. */
  call(verb: string, containerId: string, netns: string): Promise<number>;
  status(): AttachmentStatus[];
  /** Whatever is pinned. */
  left(): string[];
}

function place(world: Scratch): Place {
  const mount = world.bpffs();
  const bpffs = join(mount, "remora");
  const configuration = {
    cniVersion: "1.1.0",
    name: "pods",
    type: "remora",
    programDirs: [programFolder(world)],
    bpffs,
    chain: ["count", "acl"].map((program) => ({ program })),
    log: { level: "warn" },
    prevResult: { cniVersion: "1.1.0", interfaces: [{ name: "eth0", sandbox: "/run/netns/x" }], ips: [] },
  };
  // A file, so that no call waits for this process to get round to writing.
  const stdin = join(world.dir, "configuration");
  writeFileSync(stdin, JSON.stringify(configuration));
  return {
    async call(verb, containerId, netns) {
      const input = openSync(stdin, "r");
      const child = spawn(executable, {
        env: {
          PATH: process.env.PATH,
          CNI_COMMAND: verb,
          CNI_CONTAINERID: containerId,
          CNI_NETNS: netns,
          CNI_IFNAME: "eth0",
          CNI_PATH: "/opt/cni/bin",
        },
        stdio: [input, "pipe", "pipe"],
      });
      closeSync(input);
      let [stdout, stderr] = ["", ""];
      child.stdout?.on("data", (data) => {
        stdout += data;
      });
      child.stderr?.on("data", (data) => {
        stderr += data;
      });
      const [status] = await once(child, "close");
      if (verb !== "ADD" && status === 0) {
        assert.equal([stdout, stderr], ["", ""]);
        return 0;
      }
      const answer = JSON.parse(stdout);
      assert.is(status, answer.code === undefined ? 0 : 1, stdout);
      return answer.code ?? 0;
    },
    status: () => JSON.parse(run(executable, "status", "--json", "--bpffs", bpffs)).attachments,
    left: () => readdirSync(mount).filter((name) => !name.endsWith(".debug")),
  };
}

function pods(world: Scratch, count: number): string[] {
  return Array.from({ length: count }, () => {
    const { name, path } = world.namespace();
    run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "other0");
    return path;
  });
}

/** How often each code was answered. */
function tally(codes: number[]): Record<number, number> {
  const counts: Record<number, number> = {};
  for (const each of codes) counts[each] = (counts[each] ?? 0) + 1;
  return counts;
}

test("100 ADDs and then 200 DELs at once, on 100 pods: no error, a whole chain each, and nothing left", async () => {
  using world = scratch();
  const it = place(world);
  const netns = pods(world, 100);
  const all = (verb: string) => netns.map((path, pod) => it.call(verb, `pod-${pod}`, path));
  assert.equal(tally(await Promise.all(all("ADD"))), { 0: 100 });
  const attached = it.status();
  assert.is(new Set(attached.map(({ containerId }) => containerId)).size, 100);
  for (const { ingress, egress, degraded } of attached)
    assert.equal([ingress.length, egress.length, degraded], [2, 2, []]);
  // A kubelet sends more than one DEL.
  assert.equal(tally(await Promise.all([...all("DEL"), ...all("DEL")])), { 0: 200 });
  assert.equal(it.left(), []);
});

test("20 ADDs at once on one pod: each is answered, one chain is there, and nothing left after DEL", async () => {
  using world = scratch();
  const it = place(world);
  const [netns = ""] = pods(world, 1);
  const codes = tally(await Promise.all(Array.from({ length: 20 }, () => it.call("ADD", "pod", netns))));
  // They wait for each other; on a machine that is busy beyond the lock's deadline some are told to try again.
  const { 0: good = 0, [code.tryAgainLater]: late = 0 } = codes;
  assert.is(good + late, 20, JSON.stringify(codes));
  assert.ok(good > 0);
  assert.is(it.status().length, 1);
  assert.is(await it.call("CHECK", "pod", netns), 0);
  await it.call("DEL", "pod", netns);
  assert.equal(it.left(), []);
});

test("20 ADDs and 20 DELs at once on one pod: an ADD is whole, or says that it was overtaken or came too late", async () => {
  using world = scratch();
  const it = place(world);
  const [netns = ""] = pods(world, 1);
  for (let round = 0; round < 3; round++) {
    const calls = Array.from({ length: 40 }, (_, index) => it.call(index % 2 ? "DEL" : "ADD", "pod", netns));
    const codes = tally(await Promise.all(calls));
    const { 0: good = 0, [code.unknownContainer]: overtaken = 0, [code.tryAgainLater]: late = 0 } = codes;
    assert.is(good + overtaken + late, 40, JSON.stringify(codes));
    assert.ok(good >= 20, "each DEL succeeds");
    await it.call("DEL", "pod", netns);
    assert.equal(it.left(), []);
  }
});

test.run();
