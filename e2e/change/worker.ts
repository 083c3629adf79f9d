// SPDX-License-Identifier: Apache-2.0
/**
 * For tests: a process of its own that calls one verb a few times, and prints how the calls ended as JSON, by error code.
 *
 * Usage: worker.ts add|del|check|apply PROGRAMS BPFFS NETNS ROUNDS
 */
import { setTimeout as pause } from "node:timers/promises";
import { run } from "../../plugin/cli/run.ts";
import { RemoraError } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { keepLog, request } from "../../plugin/verbs/fixture.ts";
import { createVerbs } from "../../plugin/verbs/index.ts";

const [verb = "", programs = "", bpffs = "", netns = "", rounds] = process.argv.slice(2);
const kernel = createNativeKernel();
const log = keepLog();
const verbs = createVerbs({ kernel: () => kernel, log });
const asked = request(programs, bpffs, { netns, config: { chain: [{ program: "pass" }] } });

/** How it ended, in a word. */
async function once(round: number): Promise<string> {
  if (verb === "add" || verb === "del" || verb === "check") {
    try {
      await verbs[verb](asked);
      return "ok";
    } catch (error) {
      return error instanceof RemoraError ? `${error.code}` : String(error);
    }
  }
  let said = "";
  const io = {
    stdout() {},
    stderr(text: string) {
      said += text;
    },
    isTerminal: false,
    columns: 0,
  };
  const list = new Array(1 + (round % 3)).fill("pass").join(",");
  const status = await run(["apply", asked.containerId, "--programs", list, "--bpffs", bpffs], io);
  if (status === 0) return "ok";
  return /nothing is attached|no pod or container|was deleted while|went away/.test(said) ? "gone" : said;
}

const ended: Record<string, number> = {};
for (let round = 0; round < Number(rounds); round++) {
  await pause(Math.random() * 20);
  const how = await once(round);
  ended[how] = (ended[how] ?? 0) + 1;
}
for (const line of log.lines) if (line.startsWith("error")) ended[line] = (ended[line] ?? 0) + 1;
console.log(JSON.stringify(ended));
