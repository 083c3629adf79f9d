// SPDX-License-Identifier: Apache-2.0
/**
 * What an ADD or a DEL that was killed half-way has left: gc, the same verb again and a DEL clean it up. A handful of e2e/crash, with
 * the hook that `auto` takes on this kernel.
 */
import { execFile } from "node:child_process";
import { flushCompileCache } from "node:module";
import { release } from "node:os";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { hasTcx } from "../../plugin/chain/explain.ts";
import { compilePrograms } from "../crash/scene.ts";
import type { Report } from "../crash/worker.ts";
import { scratch } from "../lib/scratch.ts";

const crash = resolve(import.meta.dirname, "../crash");
const hook = hasTcx(release()) ? "tcx" : "clsact";

for (const [verb, least] of [
  ["ADD", 2],
  ["DEL", 1],
] as const)
  test(`${verb}, killed half-way`, async () => {
    // Who is killed leaves no cache to the next, and emulated it takes long to compile.
    flushCompileCache();
    using world = scratch();
    const host = world.namespace();
    const worker = [process.execPath, `${crash}/worker.ts`, verb, "0", "1", host.name, compilePrograms(world)];
    const command = [`--net=${host.path}`, ...worker, `${crash}/doomed.ts`, hook, "handful"];
    const { wrong, tried, states }: Report = JSON.parse((await promisify(execFile)("nsenter", command)).stdout);
    assert.equal(wrong.SIGKILL, []);
    assert.ok(tried.SIGKILL >= least, `${tried.SIGKILL} points`);
    assert.is(states, tried.SIGKILL, "each leaves something else");
  });

test.run();
