// SPDX-License-Identifier: Apache-2.0
/** What runtimes do: several DELs side by side, a DEL while the ADD is still at work, an ADD that is killed. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { collect } from "../../plugin/chain/collect.ts";
import { code } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { run, scratch } from "../lib/scratch.ts";

const source = `
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int pass(struct __sk_buff *skb) { return -1; }
char _license[] SEC("license") = "Dual BSD/GPL";
`;

interface Machine extends Disposable {
  bpffs: string;
  start(verb: "add" | "del", containerId: string, rounds: number, longestPause: number): ChildProcess;
  /** How the calls of a process ended, by error code. */
  ended(child: ChildProcess): Promise<Record<string, number>>;
}

function machine(): Machine {
  const world = scratch();
  const [pod, peer] = [world.namespace(), world.namespace()];
  world.veth({ namespace: pod, ifname: "eth0" }, { namespace: peer, ifname: "host0" });
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  run("cp", world.compile({ text: source, name: "pass" }), programs);
  const bpffs = `${world.bpffs()}/remora`;
  const script = join(import.meta.dirname, "side-by-side.ts");
  const said = new Map<ChildProcess, Promise<string>>();
  return {
    bpffs,
    start(verb, containerId, rounds, longestPause) {
      const child = spawn(
        process.execPath,
        [script, verb, programs, bpffs, pod.path, "pass", containerId, String(rounds), String(longestPause)],
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      // From the beginning: what nobody reads by the time a child ends is thrown away.
      said.set(child, text(child.stdout));
      return child;
    },
    async ended(child) {
      return JSON.parse((await said.get(child)) ?? "");
    },
    [Symbol.dispose]: () => world[Symbol.dispose](),
  };
}

function files(bpffs: string): string[] {
  const names = readdirSync(join(bpffs, ".."), { recursive: true }).map(String);
  return names.filter((name) => name !== "maps.debug" && name !== "progs.debug");
}

test("ADDs and DELs of the same containers side by side: each ADD is whole or taken back, each DEL succeeds", async () => {
  using it = machine();
  const adds = ["one", "two"].map((id) => it.start("add", id, 20, 1));
  const dels = ["one", "one", "two"].map((id) => it.start("del", id, 60, 60));
  const added = await Promise.all(adds.map(it.ended));
  for (const { ok = 0, [code.unknownContainer]: deleted = 0 } of added)
    assert.is(ok + deleted, 20, JSON.stringify(added));
  for (const ended of await Promise.all(dels.map(it.ended))) assert.equal(ended, { ok: 60 });
  for (const id of ["one", "two"]) assert.equal(await it.ended(it.start("del", id, 1, 0)), { ok: 1 });
  assert.equal(files(it.bpffs), []);
});

test("an ADD that is killed: DEL leaves nothing, or a collection", async () => {
  using it = machine();
  const kernel = createNativeKernel();
  for (let round = 0; round < 6; round++) {
    const child = it.start("add", "doomed", 1000, 1);
    const gone = new Promise((resolve) => child.on("exit", resolve));
    const deadline = Date.now() + 10_000;
    while (files(it.bpffs).length === 0 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 1));
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
    child.kill("SIGKILL");
    await gone;
    // A chain that is whole, or has a link, is no garbage while its namespace lives: that is DEL's.
    if (round % 2 === 0) collect(kernel, it.bpffs, { graceSeconds: 0 });
    assert.equal(await it.ended(it.start("del", "doomed", 1, 0)), { ok: 1 });
    assert.equal(files(it.bpffs), []);
  }
});

test.run();
