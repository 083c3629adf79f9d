// SPDX-License-Identifier: Apache-2.0
/**
 * `npm test`: builds, checks types and style, then runs every test file, and at the end looks for what was left
 * behind. `npm test -- WORD...` runs only a part (`unit`, `kernel`, ...) or the files whose path holds the word.
 * One line per file; of a failing one all that it said. The last line is `N passed, N failed`.
 */
import { join, resolve } from "node:path";
import { findLeftovers, takeInventory } from "./testing/leftovers.ts";
import { findTests, select, type TestFile } from "./testing/parts.ts";
import { interruptAll, runProgram } from "./testing/program.ts";
import { judge, type Verdict } from "./testing/verdict.ts";

const root = resolve(import.meta.dirname, "..");
const bin = join(root, "node_modules/.bin");
const total = { passed: 0, failed: 0 };
let interrupted = false;

/** One line for what ended, and all it said where it failed. */
function report(name: string, started: number, verdict: Verdict, output: string): void {
  total.passed += verdict.passed;
  total.failed += verdict.failed;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const good = verdict.problems.length === 0;
  const count = `${verdict.passed} passed${verdict.failed > 0 ? `, ${verdict.failed} failed` : ""}`;
  console.log(`${good ? "ok  " : "FAIL"} ${name}  ${count}, ${seconds} s`);
  if (good) return;
  console.log(`     ${verdict.problems.join("; ")}\n${output.trimEnd().replace(/^/gm, "     | ")}`);
}

/** A tool that passes when it exits with 0; counts as one test. Returns whether it passed. */
async function tool(name: string, command: string, ...args: string[]): Promise<boolean> {
  const started = performance.now();
  const ending = await runProgram(command, args, { cwd: root, limit: 1800 });
  const problems = [
    ...(ending.timedOut ? [`took longer than ${ending.limit} s`] : []),
    ...(ending.status === 0 ? [] : [`exit status ${ending.status ?? ending.signal}`]),
  ];
  const good = problems.length === 0;
  report(name, started, { passed: good ? 1 : 0, failed: good ? 0 : 1, problems }, ending.output);
  return good;
}

async function runFile(file: TestFile): Promise<void> {
  const started = performance.now();
  const ending = await runProgram(process.execPath, [join(root, file.path)], { cwd: root, limit: file.part.limit });
  report(file.path, started, judge(ending), ending.output);
}

/** Part after part, in each as many files at a time as it allows. */
async function runFiles(files: TestFile[]): Promise<void> {
  for (const part of new Set(files.map((file) => file.part))) {
    const queue = files.filter((file) => file.part === part);
    const worker = async () => {
      for (let file = queue.shift(); file && !interrupted; file = queue.shift()) await runFile(file);
    };
    await Promise.all(Array.from({ length: part.parallel }, worker));
  }
}

async function main(words: string[]): Promise<void> {
  const files = select(findTests(root), words);
  const whole = words.length === 0;
  const tree = files.some((file) => file.part.needs === "tree");
  if (!(await tool("build", process.execPath, join(root, "scripts/build.ts"), ...(tree ? [] : ["addon", "programs"]))))
    return;
  if (whole) {
    await tool("types", join(bin, "tsc"), "-p", ".");
    await tool("style", join(bin, "biome"), "ci", "--colors=off", "--error-on-warnings", ".");
  }
  const before = takeInventory(root);
  await runFiles(files);
  const started = performance.now();
  const left = await findLeftovers(root, before);
  report(
    "nothing left behind",
    started,
    {
      passed: left.length === 0 ? 1 : 0,
      failed: left.length === 0 ? 0 : 1,
      problems: left.length === 0 ? [] : [`${left.length} things are left`],
    },
    left.join("\n"),
  );
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.on(signal, () => {
    interrupted = true;
    interruptAll();
  });

try {
  await main(process.argv.slice(2));
} catch (error) {
  // A mistake of the caller, or of this runner: never a green end.
  console.log(`FAIL ${error instanceof Error ? error.message : error}`);
  total.failed++;
}
if (interrupted) {
  console.log("interrupted");
  total.failed++;
}
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
