// SPDX-License-Identifier: Apache-2.0
/**
 * Boots the kernels of the matrix side by side and runs checks on each.
 *
 * The checks are the repository's own test files. They run first on this machine's kernel, which also answers for the
 * compilers: a virtual machine has none (see compiler.sh).
 */
import { chmodSync, copyFileSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Architecture } from "../../scripts/make/target.ts";
import { runProgram } from "../../scripts/testing/program.ts";
import type { Scratch } from "../lib/scratch.ts";
import { type Machine, machineOf } from "./architecture.ts";
import { judgeCell, type Line } from "./cells.ts";
import { type BootOptions, boot, buildDisk, buildInitramfs } from "./machine.ts";
import { type Check, features, kernelLimit, type Row } from "./matrix.ts";
import { fetchKernel, type Kernel } from "./packages.ts";

const root = resolve(import.meta.dirname, "../..");
const here: Row = { name: "this machine", suite: "", has: Object.keys(features) as Row["has"] };

const runsOn = (row: Row, check: Check): boolean =>
  (check.needs === undefined || row.has.includes(check.needs)) &&
  (check.without === undefined || !row.has.includes(check.without));

function kernelOf({ name, suite }: Row, machine: Machine): Kernel {
  try {
    return fetchKernel(suite, machine.debian);
  } catch (error) {
    const why = error instanceof Error ? error.message : error;
    throw new Error(`the kernel of the row ${name} is neither cached nor to be had from Debian's ${suite}: ${why}`);
  }
}

/** A line for this machine, and one for each of the rows. Throws where a kernel cannot be had. */
export async function tryOut(
  world: Scratch,
  rows: readonly Row[],
  checks: readonly Check[],
  options: Omit<BootOptions, "limit">,
  machine = machineOf(process.arch as Architecture),
): Promise<Line[]> {
  // Before anything else: a kernel that cannot be fetched is said at once.
  const kernels = new Map(rows.map((row) => [row, kernelOf(row, machine)] as const));
  const compilers = join(world.dir, "compilers");
  mkdirSync(join(compilers, "answers"), { recursive: true });
  for (const name of ["clang", "gcc", "cc"]) {
    copyFileSync(join(import.meta.dirname, "compiler.sh"), join(compilers, name));
    chmodSync(join(compilers, name), 0o755);
  }
  const first = await tryHere(checks, compilers, machine);
  const disk = buildDisk(world.dir, machine, compilers);

  /** Each machine works on a snapshot of the same disk. */
  const tryOn = async (row: Row): Promise<Line> => {
    const kernel = kernels.get(row) ?? kernelOf(row, machine);
    const { patience } = machine;
    const chosen = checks
      .filter((check) => runsOn(row, check))
      .map(({ file, limit }) => ({ file, limit: limit * patience }));
    const initramfs = buildInitramfs(world.dir, machine, kernel, chosen);
    const limit = kernelLimit * patience;
    const outcome = await boot(world.dir, machine, kernel, disk, initramfs, { ...options, limit });
    const problems = [...outcome.problems];
    if (outcome.release !== kernel.release) problems.push(`came up as ${outcome.release}, not as ${kernel.release}`);
    if (problems.length > 0) problems.push(...outcome.console.split("\n").slice(-40));
    const ended = (check: Check) => outcome.ended.find(({ file }) => file === check.file);
    const cells = checks.map((check) => judgeCell(row, check, ended(check)));
    return { name: kernel.release, cells, seconds: outcome.seconds, problems };
  };
  // Side by side: one machine alone leaves a processor idle for most of its time.
  return [first, ...(await Promise.all(rows.map(tryOn)))];
}

async function tryHere(checks: readonly Check[], compilers: string, { target }: Machine): Promise<Line> {
  const started = performance.now();
  const path = process.env.PATH;
  process.env.PATH = `${compilers}:${path}`;
  if (!target.runsHere) process.env.FOREIGN_CC = target.tool("gcc");
  try {
    const cells: Line["cells"] = [];
    for (const check of checks) {
      const ended = runsOn(here, check)
        ? await runProgram(process.execPath, [check.file], { cwd: root, limit: check.limit })
        : undefined;
      cells.push(
        judgeCell(here, check, ended && { ...ended, status: ended.status ?? -1, file: check.file, seconds: 0 }),
      );
    }
    return { name: here.name, cells, seconds: (performance.now() - started) / 1000, problems: [] };
  } finally {
    process.env.PATH = path;
    delete process.env.FOREIGN_CC;
  }
}
