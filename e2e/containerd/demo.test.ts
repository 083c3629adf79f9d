// SPDX-License-Identifier: Apache-2.0
/** The demo as a newcomer runs it: twice in a row, in a pipe, and with a Ctrl-C in the middle. */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { traces } from "./traces.ts";

const demo = resolve(import.meta.dirname, "../../scripts/demo.ts");

/** Runs the demo in a folder for temporary files of the caller's; `interruptAt` is a text at which Ctrl-C comes. */
function runDemo(temporary: string, interruptAt?: string): Promise<{ status: number | null; output: string }> {
  return new Promise((done, failed) => {
    // A process group of its own, as a terminal gives it: Ctrl-C goes to all of it.
    const child = spawn(process.execPath, [demo], { detached: true, env: { ...process.env, TMPDIR: temporary } });
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data) => {
        const before = output.includes(interruptAt ?? "\0");
        output += data;
        if (!before && output.includes(interruptAt ?? "\0")) process.kill(-(child.pid ?? 0), "SIGINT");
      });
    child.once("error", failed);
    child.once("close", (status) => done({ status, output }));
  });
}

test("the demo runs twice in a row, fits a page, shows the dropped packet and ends clean", async () => {
  using world = scratch();
  for (let run = 1; run <= 2; run++) {
    const { status, output } = await runDemo(world.dir);
    assert.is(status, 0, output);
    for (const line of output.split("\n")) assert.ok(line.length <= 100, `wider than 100 columns: ${line}`);
    assert.ok(output.split("\n").length <= 90, "longer than a page and a half");
    assert.not.match(output, "\x1b", "no colours in a pipe");
    assert.match(output, /3 packets received/);
    assert.match(output, /hello from the other pod/);
    assert.match(output, /acl +[\d.]+ .* shot 1$/m);
    assert.match(output, /Everything is removed[^\n]*\n$/);
  }
});

test("Ctrl-C in the middle of the demo leaves nothing", async () => {
  using world = scratch();
  const { status, output } = await runDemo(world.dir, "4. Traffic");
  assert.is(status, 130, output);
  assert.match(output, /Interrupted: everything that was started is removed/);
  assert.not.match(output, /Everything is removed/);
  // Our own folder, which all that the demo starts has in its command line or mounts below, and nothing in it.
  assert.equal(traces(world.dir), [`folder ${world.dir}`]);
  assert.equal(readdirSync(world.dir), []);
});

test.run();
