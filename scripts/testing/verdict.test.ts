// SPDX-License-Identifier: Apache-2.0
/** The runner against test files that lie: each fixture is run as the runner runs a file, and must be seen through. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { runProgram } from "./program.ts";
import { judge } from "./verdict.ts";

const fixtures = join(import.meta.dirname, "fixtures");
const run = (name: string, limit = 60) =>
  runProgram(process.execPath, [join(fixtures, name)], { cwd: import.meta.dirname, limit });

for (const { file, passed, failed, problems } of [
  { file: "honest.ts", passed: 2, failed: 0, problems: [] },
  { file: "failing.ts", passed: 1, failed: 1, problems: ["exit status 1", "1 of 2 failed"] },
  {
    file: "forgotten.ts",
    passed: 0,
    failed: 1,
    problems: ["no summary: was .run() forgotten, or did it stop half-way?"],
  },
  { file: "empty.ts", passed: 0, failed: 1, problems: ["holds no test"] },
  { file: "skipping.ts", passed: 1, failed: 1, problems: ["1 skipped"] },
  { file: "only.ts", passed: 1, failed: 1, problems: ["1 skipped"] },
  { file: "hook.ts", passed: 0, failed: 1, problems: ["1 of 1 failed"] },
  {
    file: "waiting.ts",
    passed: 0,
    failed: 1,
    problems: ["exit status 1", "no summary: was .run() forgotten, or did it stop half-way?"],
  },
  { file: "exiting.ts", passed: 1, failed: 1, problems: ["exit status 3"] },
])
  test(`${file} is judged for what it is`, async () => {
    assert.equal(judge(await run(file)), { passed, failed, problems });
  });

test("a file that hangs is ended, although it ignores SIGTERM", async () => {
  const ending = await run("stuck.ts", 1);
  assert.is(ending.signal, "SIGKILL");
  assert.equal(judge(ending).problems.slice(0, 1), ["took longer than 1 s"]);
});

test("a process that a file leaves behind is named and killed", async () => {
  const ending = await run("leaving.ts");
  assert.is(ending.survivors.length, 1);
  const [pid, ...command] = (ending.survivors[0] ?? "").split(" ");
  assert.is(command.join(" "), "sleep 300");
  while (existsSync(`/proc/${pid}/exe`)) await sleep(5); // it was killed, so it ends
  assert.equal(judge(ending), { passed: 1, failed: 1, problems: [`left running: ${ending.survivors[0]}`] });
});

test("two summaries are one too many, and colours do not hide one", () => {
  const one = "\n  Total:     2\u001b[32m\n  Passed:    2\u001b[39m\n  Skipped:   0\n  Duration:  1ms\n\n";
  const ending = { status: 0, signal: null, timedOut: false, limit: 1, survivors: [] };
  assert.equal(judge({ ...ending, output: one }).problems, []);
  assert.is(judge({ ...ending, output: one + one }).problems.length, 1);
});

test.run();
