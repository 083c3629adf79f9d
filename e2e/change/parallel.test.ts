// SPDX-License-Identifier: Apache-2.0
/** Twenty processes at one attachment: they exclude each other, wait, and each ends as documented. */
import { spawn } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pinsOf } from "../../plugin/chain/pins.ts";
import { settle } from "../../plugin/chain/settle.ts";
import { code } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import type { Fd } from "../../plugin/kernel/port.ts";
import { run, type Scratch, scratch } from "../lib/scratch.ts";

const source = `
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int pass(struct __sk_buff *skb) { return -1; }
char _license[] SEC("license") = "Dual BSD/GPL";
`;
const script = join(import.meta.dirname, "worker.ts");
type Verb = "add" | "del" | "check" | "apply";

function machine(world: Scratch) {
  const [pod, peer] = [world.namespace(), world.namespace()];
  world.veth({ namespace: pod, ifname: "eth0" }, { namespace: peer, ifname: "host0" });
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  run("cp", world.compile({ text: source, name: "pass" }), programs);
  const bpffs = `${world.bpffs()}/remora`;
  return {
    pins: pinsOf(bpffs, { network: "podnet", containerId: "c0ffee", ifname: "eth0" }),
    /** How its calls ended, by error code. */
    async ended(verb: Verb, rounds: number): Promise<Record<string, number>> {
      const argv = [script, verb, programs, bpffs, pod.path, String(rounds)];
      const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "inherit"] });
      let stdout = "";
      for await (const chunk of child.stdout) stdout += chunk;
      return JSON.parse(stdout);
    },
    left: () =>
      readdirSync(join(bpffs, ".."), { recursive: true })
        .map(String)
        .filter((name) => !name.endsWith(".debug")),
  };
}

test("twenty at once: ADD, DEL, CHECK and apply of one pod", async () => {
  using world = scratch();
  const it = machine(world);
  assert.equal(await it.ended("add", 1), { ok: 1 });
  const verbs: Verb[] = ["add", "del", "check", "apply", "apply"];
  const outcomes = await Promise.all(
    Array.from({ length: 20 }, (_, number) => verbs[number % verbs.length] as Verb).map(async (verb) => ({
      verb,
      ended: await it.ended(verb, 5),
    })),
  );
  const documented: Record<Verb, string[]> = {
    add: ["ok", String(code.unknownContainer)],
    del: ["ok"],
    check: ["ok", String(code.attachmentDiffers)],
    apply: ["ok", "gone"],
  };
  for (const { verb, ended } of outcomes)
    for (const how of Object.keys(ended)) assert.ok(documented[verb].includes(how), `${verb}: ${how}`);
  for (const verb of ["add", "apply"] as const)
    assert.ok(
      outcomes.some((each) => each.verb === verb && (each.ended.ok ?? 0) > 0),
      verb,
    );
  assert.equal(await it.ended("add", 1), { ok: 1 });
  assert.equal(await it.ended("check", 1), { ok: 1 });
  assert.is(settle(createNativeKernel(), it.pins), undefined, "nothing is half done");
  assert.equal(await it.ended("del", 1), { ok: 1 });
  assert.equal(it.left(), []);
});

test("twenty changes of one pod at once all succeed, one after the other", async () => {
  using world = scratch();
  const it = machine(world);
  assert.equal(await it.ended("add", 1), { ok: 1 });
  for (const ended of await Promise.all(Array.from({ length: 20 }, () => it.ended("apply", 3))))
    assert.equal(ended, { ok: 3 });
  assert.equal(await it.ended("check", 1), { ok: 1 });
  assert.equal(await it.ended("del", 1), { ok: 1 });
  assert.equal(it.left(), []);
});

test("a DEL does not wait for ever: whoever has the lock is overtaken at the deadline", async () => {
  using world = scratch();
  const it = machine(world);
  const kernel = createNativeKernel();
  assert.equal(await it.ended("add", 1), { ok: 1 });
  const lock = kernel.tryLock(it.pins.directory) as Fd;
  assert.equal(await it.ended("del", 1), { ok: 1 });
  assert.equal(it.left(), []);
  assert.not(kernel.names(it.pins.directory, lock));
  kernel.close(lock);
});

test.run();
