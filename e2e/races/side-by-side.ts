// SPDX-License-Identifier: Apache-2.0
/**
 * For tests: a process of its own that calls one verb again and again, with a pause before each, and prints how the calls
 * ended, as JSON: `{"ok": 3, "3": 1}`, by error code.
 *
 * Usage: side-by-side.ts add|del PROGRAMS BPFFS NETNS PROGRAM CONTAINER ROUNDS LONGEST_PAUSE_MS
 */
import { setTimeout as pause } from "node:timers/promises";
import { RemoraError } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { keepLog, request } from "../../plugin/verbs/fixture.ts";
import { createVerbs } from "../../plugin/verbs/index.ts";

const [verb = "", programs = "", bpffs = "", netns = "", program = "", containerId = "", rounds, longest] =
  process.argv.slice(2);
if (verb !== "add" && verb !== "del") throw new Error(`no such verb: ${verb}`);

const kernel = createNativeKernel();
const log = keepLog();
const verbs = createVerbs({ kernel: () => kernel, log });
const asked = request(programs, bpffs, { netns, containerId, config: { chain: [{ program }] } });
const ended: Record<string, number> = {};
for (let round = 0; round < Number(rounds); round++) {
  await pause(Math.random() * Number(longest));
  let how = "ok";
  try {
    await verbs[verb](asked);
  } catch (error) {
    how = error instanceof RemoraError ? String(error.code) : String(error);
  }
  ended[how] = (ended[how] ?? 0) + 1;
}
for (const line of log.lines) if (line.startsWith("error")) ended[line] = (ended[line] ?? 0) + 1;
console.log(JSON.stringify(ended));
