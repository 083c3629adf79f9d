// SPDX-License-Identifier: Apache-2.0
/** Runs a chain on one packet from several processes at the same time, for tests of what CPUs share. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Chain, Laboratory } from "./laboratory.ts";

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
