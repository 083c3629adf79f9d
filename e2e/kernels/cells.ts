// SPDX-License-Identifier: Apache-2.0
/** What became of a check on a kernel, and the table of it all. */
import { judge } from "../../scripts/testing/verdict.ts";
import type { Ended } from "./machine.ts";
import { type Check, features, type Row } from "./matrix.ts";

export interface Cell {
  check: Check;
  state: "passed" | "explained" | "failed";
  /** What the table shows. */
  text: string;
  /** Sentences: why it does not run here, or what is wrong. */
  reasons: string[];
  output: string;
  /** That it took, by the clock of the machine that it ran on. */
  seconds: number;
}

/** @param ended undefined where the check did not run. */
export function judgeCell(row: Row, check: Check, ended: Ended | undefined): Cell {
  const cell = (state: Cell["state"], text: string, reasons: string[] = []): Cell => ({
    check,
    state,
    text,
    reasons: reasons.map((reason) => `${check.file}: ${reason}`),
    output: ended?.output ?? "",
    seconds: ended?.seconds ?? 0,
  });
  if (check.needs && !row.has.includes(check.needs))
    return cell("explained", "-", [`not run, it needs ${features[check.needs]}`]);
  if (check.without && row.has.includes(check.without)) return cell("explained", "-", []);
  if (!ended) return cell("failed", "FAILED", ["did not run to its end"]);

  const lacking = Object.entries(check.except ?? {}).filter(([, feature]) => !row.has.includes(feature));
  const failing = failedTests(ended.output);
  const expected = lacking.map(([name]) => name);
  const { problems, passed } = judge({
    status: ended.status,
    signal: null,
    output: ended.output,
    timedOut: ended.status === 124,
    limit: check.limit,
    survivors: [],
  });
  if (problems.length === 0 && expected.length === 0) return cell("passed", `${passed}`);
  const wrong = [
    ...failing.filter((name) => !expected.includes(name)).map((name) => `"${name}" failed`),
    ...expected.filter((name) => !failing.includes(name)).map((name) => `"${name}" should not have been possible here`),
  ];
  if (wrong.length > 0 || failing.length === 0) return cell("failed", "FAILED", [...wrong, ...problems]);
  return cell(
    "explained",
    `${passed}/${passed + failing.length}`,
    lacking.map(([name, feature]) => `"${name}" needs ${features[feature]}`),
  );
}

/** uvu prints `FAIL  "name"`, or `FAIL  suite  "name"`. */
function failedTests(output: string): string[] {
  return [...output.matchAll(/^ *FAIL +(?:\S+ +)?"(.*)"$/gm)].map((match) => match[1] as string);
}

/** A kernel, and what became of each check on it. */
export interface Line {
  name: string;
  cells: Cell[];
  seconds: number;
  problems: string[];
}

export function isBad({ cells, problems }: Line): boolean {
  return problems.length > 0 || cells.some(({ state }) => state === "failed");
}

export function printDetails(lines: Line[]): void {
  for (const { name, cells, problems } of lines) {
    for (const problem of problems) console.log(`${name}: ${problem}`);
    for (const cell of cells) {
      for (const reason of cell.reasons) console.log(`${name}: ${reason}`);
      if (cell.state === "failed") console.log(cell.output.replace(/^/gm, "    "));
    }
  }
}

/** A number is how many tests passed; `-` does not belong on that kernel, `a/b` passed a of b, the rest explained above. */
export function printTable(lines: Line[]): void {
  const titles = lines[0]?.cells.map((cell) => cell.check.title) ?? [];
  printColumns([
    ["kernel", ...titles, "seconds"],
    ...lines.map(({ name, cells, seconds }) => [name, ...cells.map((cell) => cell.text), seconds.toFixed(0)]),
  ]);
}

/** The first line is the heading. */
export function printColumns(texts: string[][]): void {
  const widths = texts[0]?.map((_, column) => Math.max(...texts.map((line) => line[column]?.length ?? 0))) ?? [];
  for (const line of texts)
    console.log(
      line
        .map((text, column) => text.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    );
}
