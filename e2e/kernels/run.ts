// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run test:kernels [ROW...]`: boots other kernels and runs on each what a chain, the library and the verbs promise.
 * Prints a table, kernel by check. What a kernel cannot do prints the reason; it fails where it should be able to.
 *
 * The checks are the repository's own test files. They run first on this machine's kernel, which also answers for the
 * compilers: a virtual machine has none (see compiler.sh).
 */
import { chmodSync, copyFileSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { runProgram } from "../../scripts/testing/program.ts";
import { scratch } from "../lib/scratch.ts";
import { type Cell, judgeCell, printDetails, printTable } from "./cells.ts";
import { boot, buildDisk, buildInitramfs } from "./machine.ts";
import { type Check, checks, features, kernelLimit, type Row, rows } from "./matrix.ts";
import { fetchKernel } from "./packages.ts";

const root = resolve(import.meta.dirname, "../..");
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !rows.some((row) => row.name === name));
if (unknown.length > 0) {
  console.error(`no kernel ${unknown.join(", ")} in the matrix; there are ${rows.map((row) => row.name).join(", ")}`);
  process.exit(2);
}

using world = scratch();
const compilers = join(world.dir, "compilers");
mkdirSync(join(compilers, "answers"), { recursive: true });
for (const name of ["clang", "gcc", "cc"]) {
  copyFileSync(join(import.meta.dirname, "compiler.sh"), join(compilers, name));
  chmodSync(join(compilers, name), 0o755);
}

const table: { name: string; cells: Cell[]; seconds: number; problems: string[] }[] = [];

const here: Row = { name: "this machine", suite: "", has: Object.keys(features) as Row["has"] };
const started = performance.now();
const runsOn = (row: Row, check: Check): boolean =>
  (check.needs === undefined || row.has.includes(check.needs)) &&
  (check.without === undefined || !row.has.includes(check.without));
const cells: Cell[] = [];
process.env.PATH = `${compilers}:${process.env.PATH}`;
for (const check of checks) {
  const ended = runsOn(here, check)
    ? await runProgram(process.execPath, [check.file], { cwd: root, limit: check.limit })
    : undefined;
  cells.push(judgeCell(here, check, ended && { ...ended, status: ended.status ?? -1, file: check.file, seconds: 0 }));
}
table.push({ name: here.name, cells, seconds: (performance.now() - started) / 1000, problems: [] });

const disk = buildDisk(world.dir, compilers);
/** One kernel's line. Each machine works on a snapshot of the same disk. */
async function tryOut(row: Row) {
  const kernel = fetchKernel(row.suite);
  const initramfs = buildInitramfs(
    world.dir,
    kernel,
    checks.filter((check) => runsOn(row, check)),
  );
  const outcome = await boot(world.dir, kernel, disk, initramfs, kernelLimit);
  const problems = [...outcome.problems];
  if (outcome.release !== kernel.release) problems.push(`came up as ${outcome.release}, not as ${kernel.release}`);
  const cells = checks.map((check) =>
    judgeCell(
      row,
      check,
      outcome.ended.find(({ file }) => file === check.file),
    ),
  );
  if (problems.length > 0) console.log(outcome.console.split("\n").slice(-40).join("\n"));
  console.log(`${kernel.release}: ${cells.map((cell) => `${cell.check.title} ${cell.text}`).join(", ")}`);
  return { name: kernel.release, cells, seconds: outcome.seconds, problems };
}
// Side by side: one machine alone leaves a processor idle for most of its time.
table.push(...(await Promise.all(rows.filter(({ name }) => wanted.length === 0 || wanted.includes(name)).map(tryOut))));

printDetails(table);
printTable(table);
const bad = table.some((line) => line.problems.length > 0 || line.cells.some((cell) => cell.state === "failed"));
process.exitCode = bad ? 1 : 0;
