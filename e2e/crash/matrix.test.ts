// SPDX-License-Identifier: Apache-2.0
/**
 * The crash matrix, on the real kernel: each verb, each of its kernel operations, failing with EIO there, and dying of SIGKILL
 * there. Afterwards the attachment is as it was or as it was to be; a repeated verb succeeds; a collection and a DEL, or a
 * DEL alone, leave no pin, no BPF object and no descriptor.
 *
 * Who dies *before* each operation dies after each one, too: nothing but computing lies between two of them.
 */
import { execFile } from "node:child_process";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { takeInventory } from "../../scripts/testing/leftovers.ts";
import { type VerbName, verbs } from "./scene.ts";
import type { Mode, Report } from "./worker.ts";

const root = resolve(import.meta.dirname, "../..");
const shares = 6;

async function work(verb: VerbName, share: number): Promise<Report> {
  const worker = [join(import.meta.dirname, "worker.ts"), verb, String(share), String(shares)];
  return JSON.parse((await promisify(execFile)(process.execPath, worker, { maxBuffer: 64 << 20 })).stdout);
}

/** `wrong of tried`, or only how many were tried. */
function cell(reports: Report[], mode: Mode): string {
  const tried = reports.reduce((sum, report) => sum + report.tried[mode], 0);
  const wrong = reports.reduce((sum, report) => sum + report.wrong[mode].length, 0);
  return wrong === 0 ? `${tried} ok` : `${wrong} WRONG of ${tried}`;
}

/** Which of these are still there. The kernel frees BPF objects a moment after their last user has gone. */
async function outliving(objects: Set<string>): Promise<string[]> {
  for (let tries = 0; ; tries++) {
    const left = [...takeInventory(root)].filter((object) => objects.has(object));
    if (left.length === 0 || tries === 50) return left;
    await sleep(200);
  }
}

const table: string[][] = [["verb", "points", "EIO", "SIGKILL"]];

for (const verb of Object.keys(verbs) as VerbName[])
  test(`${verb}: whatever fails, wherever it dies`, async () => {
    const reports = await Promise.all(Array.from({ length: shares }, (_, share) => work(verb, share)));
    const points = reports[0]?.operations.length ?? 0;
    table.push([verb, String(points), cell(reports, "EIO"), cell(reports, "SIGKILL")]);
    for (const mode of ["EIO", "SIGKILL"] as const)
      assert.equal(
        reports.flatMap(({ wrong }) => wrong[mode]),
        [],
        mode,
      );
    assert.is(
      reports.reduce((sum, { tried }) => sum + tried.SIGKILL, 0),
      points,
      "a point was left out",
    );
    assert.equal(await outliving(new Set(reports.flatMap((report) => report.made))), [], "BPF objects");
  });

test("the table", () => {
  console.log(`\n${table.map((row) => row.map((text) => text.padEnd(12)).join(" ")).join("\n")}`);
  assert.is(table.length, 1 + Object.keys(verbs).length);
});

test.run();
