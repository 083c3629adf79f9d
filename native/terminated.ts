// SPDX-License-Identifier: Apache-2.0
/**
 * For worker.test.ts, a process of its own, since the addon may take it along: threads that call the addon without a rest are
 * terminated, one after the other. Its argument says which call; at the end it prints `still here`.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { kernel } from "./chain.ts";

const object = readFileSync(join(import.meta.dirname, "../dist/programs/count.bpf.o"));
const calls: Record<string, () => unknown> = {
  throws: () => {
    try {
      kernel.openPin("/nowhere");
    } catch {}
  },
  returns: () => kernel.findInterface("/proc/self/ns/net", "lo"),
  lists: () => kernel.inspectObject(object),
};
/** Without what mends it (native/CMakeLists.txt) the first aborts the process. */
const rounds = 2;

if (isMainThread) {
  for (let round = 0; round < rounds; round++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: process.argv[2] });
    await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    await pause(round);
    await worker.terminate();
  }
  console.log("still here");
} else {
  const call = calls[workerData as string];
  if (!call) throw new Error(`${workerData} is none of ${Object.keys(calls)}`);
  parentPort?.postMessage("begins");
  for (;;) call();
}
