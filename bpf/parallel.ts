// SPDX-License-Identifier: Apache-2.0
/** Runs a chain on one packet from several processes at the same time, for tests of what CPUs share. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { Chain, Laboratory, Member } from "./laboratory.ts";

/** A run of the kernel is not interrupted if it is short. */
const repeat = 10_000;
let pinned = 0;

/** Ends a process of ours, if it has not ended, and waits for it. */
export async function stopped(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill();
  await ended;
}

/** @returns how often the packet passed, in all of the `packets.length` processes together. Each has its own packet. */
export async function runInParallel(
  lab: Laboratory,
  { head }: Chain,
  packets: Buffer[],
  rounds: number,
): Promise<number> {
  const path = join(lab.world.bpffs(), `program-${++pinned}`);
  lab.kernel.pin(head, path);
  const native = join(import.meta.dirname, "../plugin/kernel/native.ts");
  const children = packets.map((packet) => {
    const script = `
      import { createNativeKernel } from ${JSON.stringify(native)};
      const kernel = createNativeKernel();
      const program = kernel.openPin(${JSON.stringify(path)}).fd;
      const packet = Buffer.from("${packet.toString("hex")}", "hex");
      console.log("ready");
      process.stdin.once("data", () => {
        for (let n = 0; n < ${rounds}; n++) kernel.testRun({ program, packet, repeat: ${repeat} });
        process.exit(0);
      });`;
    return spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
  });
  try {
    await Promise.all(children.map(({ stdout }) => once(stdout, "data")));
    const ended = children.map((child) => once(child, "exit"));
    for (const { stdin } of children) stdin.write("go\n");
    for (const [status] of await Promise.all(ended))
      if (status !== 0) throw new Error(`a process ended with ${status}`);
  } finally {
    await Promise.all(children.map(stopped));
  }
  return packets.length * rounds * repeat;
}

interface Collision {
  /** A member of the program whose lock it is. */
  member: Member;
  /** The function of fixtures/holder.bpf.c that takes the lock, and the packet for it. */
  hold: string;
  /** That which stands before the program, and comes by with this packet. */
  knock: string;
  packet: Buffer;
  program: string;
  entry: string;
  params?: Record<string, string>;
}

/**
 * Runs the program on one CPU while its lock is held on another, until it has come by a hundred times meanwhile.
 * @returns how often what the lock is for was changed all the same: 0, or the program does not take it.
 */
export async function changesUnderLock(lab: Laboratory, collision: Collision): Promise<number> {
  const { member, hold, knock, packet, program, entry, params = {} } = collision;
  const holder = lab.chain([{ program: "fixtures/holder", entry: hold, sharing: member }]);
  const [watching] = holder.members;
  const knocker = lab.chain([
    { program: "fixtures/holder", entry: knock, sharing: watching },
    { program, entry, params, sharing: member },
  ]);
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const workers = [holder, knocker].map(
    ({ head }) =>
      new Worker(new URL("fixtures/sender.ts", import.meta.url), {
        workerData: { program: head, packet, runs: Number.POSITIVE_INFINITY, stop },
      }),
  );
  const ended = workers.map((worker) => once(worker, "exit"));
  try {
    for (const deadline = Date.now() + 60_000; ; ) {
      const [held = 0, met = 0, broken = 0] = watching?.totals("watched") ?? [];
      if (met >= 100) return broken;
      if (await Promise.race([...ended, sleep(5)])) throw new Error("a thread that sends has ended");
      if (Date.now() > deadline) throw new Error(`only ${met} came by while the lock was held ${held} times`);
    }
  } finally {
    Atomics.store(stop, 0, 1);
    await Promise.all(ended);
  }
}
