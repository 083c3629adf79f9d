// SPDX-License-Identifier: Apache-2.0
/** What nobody caught, anywhere in the process, is still one JSON error and exit status 1. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const main = join(import.meta.dirname, "main.ts");

/** Runs a DEL whose stdin stays open, with a fault planted before it. */
function faulty(fault: string): { status: number | null; stdout: string; stderr: string } {
  const preload = `data:text/javascript,${encodeURIComponent(fault)}`;
  const script = 'exec < <(exec sleep 30); writer=$!; "$@"; status=$?; kill $writer; exit $status';
  const { status, stdout, stderr } = spawnSync(
    "/bin/bash",
    ["-c", script, "bash", process.execPath, "--import", preload, main],
    {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
      env: { PATH: process.env.PATH, CNI_COMMAND: "DEL", CNI_CONTAINERID: "a", CNI_IFNAME: "eth0", CNI_PATH: "/x" },
    },
  );
  return { status, stdout, stderr };
}

const faults: Record<string, [fault: string, says: RegExp]> = {
  "an exception out of nowhere": ['setTimeout(() => { throw new Error("boom"); }, 5);', /^internal error: boom$/],
  "a rejection that nobody awaits": [
    'setTimeout(() => Promise.reject(new Error("boom")), 5);',
    /^internal error: boom$/,
  ],
  "something thrown that is no error": ["setTimeout(() => { throw { odd: 1n }; }, 5);", /^internal error: /],
  "a stack that ends": [
    "const deeper = () => 1 + deeper(); setTimeout(deeper, 5);",
    /^internal error: Maximum call stack/,
  ],
  "two at once": [
    'for (const word of ["one", "two"]) setTimeout(() => { throw new Error(word); }, 5);',
    /^internal error: one$/,
  ],
};
for (const [name, [fault, says]] of Object.entries(faults))
  test(name, () => {
    const { status, stdout, stderr } = faulty(fault);
    const { cniVersion, code, msg, details } = JSON.parse(stdout);
    assert.equal([status, cniVersion, code], [1, "1.1.0", 199], stderr);
    assert.match(msg, says);
    assert.type(details, "string");
    assert.is(stderr, "");
  });

/** Runs the command line in a script, in which it is "$@". */
function inShell(script: string, clock: string, ...args: string[]): { stdout: string; stderr: string } {
  const preload = `data:text/javascript,${encodeURIComponent(clock)}`;
  return spawnSync("/bin/bash", ["-c", script, "bash", process.execPath, "--import", preload, main, ...args], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
    env: { PATH: process.env.PATH },
  });
}

test("a pager's reader may take his time", () => {
  // The pipe is full, and by each look at the clock five seconds have gone.
  const clock = "let looks = 0; const now = Date.now; Date.now = () => now() + 5000 * looks++;";
  const script = '{ head -c 65536 /dev/zero; "$@"; echo "status $?" >&2; } | { sleep 1; tail -c +65537; }';
  const { stdout, stderr } = inShell(script, clock, "help");
  assert.match(stdout, /^Remora attaches[\s\S]*2 wrong usage\.\n$/);
  assert.is(stderr, "status 0\n");
});

test("stdout that cannot be written is said; one that is closed early is not", () => {
  const full = inShell('"$@" > /dev/full; echo "status $?" >&2', "", "help");
  assert.match(full.stderr, /^remora: stdout: ENOSPC: no space left on device, write\nstatus 1\n$/);
  assert.is(inShell('"$@" 2> /dev/full; echo "status $?"', "", "nope").stdout, "status 2\n");
  const closed = inShell('{ "$@"; echo "status $?" >&2; } | :', "", "help");
  assert.match(closed.stderr, /^status [01]\n$/);
});

test.run();
