// SPDX-License-Identifier: Apache-2.0
/**
 * The crash matrix, on the real kernel: each verb, each of its kernel operations, failing with EIO there, and dying of SIGKILL
 * there. After a failure the attachment is as it was or as it was to be; after a SIGKILL it is that once gc, and nobody else, has
 * looked at it. A repeated verb succeeds, after gc and without it; a DEL leaves no pin, no BPF object and no descriptor.
 *
 * Who dies *before* each operation dies after each one, too: nothing but computing lies between two of them.
 */
import { execFile } from "node:child_process";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { buildSync } from "esbuild";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { HookName } from "../../plugin/model.ts";
import { takeInventory } from "../../scripts/testing/leftovers.ts";
import { scratch } from "../lib/scratch.ts";
import { compilePrograms, type VerbName, verbs } from "./scene.ts";
import type { Mode, Report } from "./worker.ts";

const root = resolve(import.meta.dirname, "../..");
/** Nearly all of a worker's time goes by with waiting for the kernel's grace periods, which several wait for together. */
const shares = 8;

// The tests run when this module has ended: the end of the process takes it away.
const world = scratch();
const programs = compilePrograms(world);
const doomed = bundle();

/** On a node of its own: a network namespace. */
async function work(verb: VerbName, hook: HookName, every: number, share: number): Promise<Report> {
  const host = world.namespace();
  const worker = [process.execPath, join(import.meta.dirname, "worker.ts"), verb, String(share), String(shares)];
  const env = { ...process.env, NODE_COMPILE_CACHE: join(world.dir, "cache") };
  const command = [`--net=${host.path}`, ...worker, host.name, programs, doomed, hook, String(every)];
  return JSON.parse((await promisify(execFile)("nsenter", command, { maxBuffer: 64 << 20, env })).stdout);
}

/** doomed.ts as one file of JavaScript: it is started hundreds of times, and starts in half the time so. */
function bundle(): string {
  const outfile = join(world.dir, "doomed.mjs");
  buildSync({
    entryPoints: [join(import.meta.dirname, "doomed.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node26",
    // The addon is found from where its loader's source is; what is CommonJS asks for `require`.
    define: { "import.meta.dirname": JSON.stringify(join(root, "plugin/kernel")) },
    banner: {
      js: `import { createRequire } from "node:module"; const require = createRequire(${JSON.stringify(`${root}/`)});`,
    },
  });
  return outfile;
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

const table: string[][] = [["verb", "hook", "points", "EIO", "SIGKILL", "states"]];

/** Of clsact, one point in so many, beside those at which it differs from TCX. All with REMORA_CRASH=all. */
const everyOfClsact = process.env.REMORA_CRASH === "all" ? 1 : 6;

for (const { verb, hook, every } of (Object.keys(verbs) as VerbName[]).flatMap((verb) => [
  { verb, hook: "tcx" as const, every: 1 },
  { verb, hook: "clsact" as const, every: everyOfClsact },
]))
  test(`${verb} with ${hook}: whatever fails, wherever it dies`, async () => {
    const reports = await Promise.all(Array.from({ length: shares }, (_, share) => work(verb, hook, every, share)));
    const points = reports[0]?.operations.length ?? 0;
    const states = reports.reduce((sum, report) => sum + report.states, 0);
    table.push([verb, hook, String(points), cell(reports, "EIO"), cell(reports, "SIGKILL"), String(states)]);
    for (const mode of ["EIO", "SIGKILL"] as const)
      assert.equal(
        reports.flatMap(({ wrong }) => wrong[mode]),
        [],
        mode,
      );
    assert.is(
      reports.reduce((sum, { tried }) => sum + tried.SIGKILL, 0),
      every === 1 ? points : reports.reduce((sum, { tried }) => sum + tried.EIO, 0),
      "a point was left out",
    );
    assert.equal(await outliving(new Set(reports.flatMap((report) => report.made))), [], "BPF objects");
  });

test("the table", () => {
  console.log(`\n${table.map((row) => row.map((text) => text.padEnd(12)).join(" ")).join("\n")}`);
  assert.is(table.length, 1 + 2 * Object.keys(verbs).length);
});

test.run();
