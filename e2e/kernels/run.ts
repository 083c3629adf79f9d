// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run test:kernels [ROW|CHECK...]`: boots other kernels and runs on each what a chain, the library and the verbs promise.
 * `npm run test:arm64 [ROW|CHECK...]`: the same on emulated machines of that architecture, with the tree that was built for it.
 * Prints a table, kernel by check. What a kernel cannot do prints the reason; it fails where it should be able to.
 */
import { parseArgs } from "node:util";
import type { Architecture } from "../../scripts/make/target.ts";
import { scratch } from "../lib/scratch.ts";
import { machineOf } from "./architecture.ts";
import { isBad, printDetails, printTable } from "./cells.ts";
import { checks, rowsOf } from "./matrix.ts";
import { tryOut } from "./tryout.ts";

const { values, positionals: words } = parseArgs({
  allowPositionals: true,
  options: { arch: { type: "string", default: process.arch } },
});
const machine = machineOf(values.arch as Architecture);
const rows = rowsOf(machine.target.architecture);
const names = rows.map((row) => row.name);
const titles = checks.map((check) => check.title);
const unknown = words.filter((word) => !names.includes(word) && !titles.includes(word));
if (unknown.length > 0) {
  console.error(`no ${unknown.join(", ")} in the matrix: kernels ${names.join(", ")}; checks ${titles.join(", ")}`);
  process.exit(2);
}
/** All of them where none is named. */
const named = <T>(all: readonly T[], nameOf: (one: T) => string): readonly T[] =>
  all.some((one) => words.includes(nameOf(one))) ? all.filter((one) => words.includes(nameOf(one))) : all;

using world = scratch();
const chosen = { rows: named(rows, (row) => row.name), checks: named(checks, (check) => check.title) };
const table = await tryOut(world, chosen.rows, chosen.checks, { processors: 2, progress: console.log }, machine);
printDetails(table);
printTable(table);
process.exitCode = table.some(isBad) ? 1 : 0;
