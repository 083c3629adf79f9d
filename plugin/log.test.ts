// SPDX-License-Identifier: Apache-2.0
/** The log, as a process of its own writes it: nothing on stdout, nothing lost, nothing that fails the caller. */
import { spawnSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

/** Runs lines of script with `log` opened as given; returns what came out. */
function written(options: object, script: string, stderr: "pipe" | "ignore" = "pipe") {
  const child = spawnSync(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `import { openLog } from ${JSON.stringify(join(import.meta.dirname, "log.ts"))};
       import { closeSync } from "node:fs";
       const log = openLog(${JSON.stringify(options)});
       ${script}
       await log.flush();
       console.log("flushed");`,
    ],
    { encoding: "utf8", cwd: join(import.meta.dirname, ".."), stdio: ["ignore", "pipe", stderr], timeout: 60_000 },
  );
  return { status: child.status, stdout: child.stdout, lines: (child.stderr ?? "").split("\n").filter(Boolean) };
}

function folder(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), `remora-log-${process.pid}-`));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

test("lines go to stderr from the level on, in order, with their fields", () => {
  const { status, stdout, lines } = written(
    { level: "info" },
    'log.debug("no"); log.info("one", { pod: "a/b", n: 2n }); await 0; log.error("two", { err: new Error("why") });',
  );
  assert.equal([status, stdout], [0, "flushed\n"]);
  const [one, two, ...more] = lines.map((line) => JSON.parse(line));
  assert.equal([one.level, one.msg, one.pod, one.n], [30, "one", "a/b", 2]);
  assert.type(one.time, "number");
  assert.equal([two.level, two.msg, two.err.message], [50, "two", "why"]);
  assert.is(more.length, 0);
});

test("pino is loaded where there is a line to write, and only there", () => {
  const isLoaded = `
    const { default: Module } = await import("node:module");
    await log.flush();
    console.log(Object.keys(Module._cache).some((path) => path.includes("/pino/")));`;
  assert.is(written({ level: "warn" }, `log.info("no"); ${isLoaded}`).stdout, "false\nflushed\n");
  assert.is(written({ level: "warn" }, `log.warn("yes"); ${isLoaded}`).stdout, "true\nflushed\n");
});

test("silent is silent", () => {
  assert.is(written({ level: "silent" }, 'log.error("no");').lines.length, 0);
});

test("a file gets the lines, appended, for root alone", () => {
  using dir = folder();
  const file = join(dir.path, "remora.log");
  for (const word of ["one", "two"]) {
    const { lines } = written({ level: "info", file }, `log.info(${JSON.stringify(word)});`);
    assert.is(lines.length, 0);
  }
  const words = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).msg);
  assert.equal(words, ["one", "two"]);
  assert.is(statSync(file).mode & 0o777, 0o600);
});

test("a file that cannot be written: stderr, and why", () => {
  using dir = folder();
  const plain = join(dir.path, "plain");
  writeFileSync(plain, "");
  const { status, lines } = written({ level: "info", file: join(plain, "log") }, 'log.info("one");');
  assert.is(status, 0);
  assert.match(JSON.parse(lines[0] ?? "").msg, /^the log file cannot be written, logging to stderr: ENOTDIR/);
  assert.is(JSON.parse(lines[1] ?? "").msg, "one");
});

test("a named pipe that nobody reads does not hang", () => {
  using dir = folder();
  const file = join(dir.path, "pipe");
  assert.is(spawnSync("mkfifo", [file]).status, 0);
  const { status, lines } = written({ level: "info", file }, 'log.info("one");');
  assert.is(status, 0);
  assert.is(lines.length, 2);
});

test("a full disk: stderr, and why, from the line on that did not fit", () => {
  const { stdout, lines } = written({ level: "info", file: "/dev/full" }, 'log.info("one"); log.error("two");');
  assert.is(stdout, "flushed\n");
  const [why, one, two, ...more] = lines.map((line) => JSON.parse(line).msg);
  assert.match(why, /^the log file cannot be written, logging to stderr: ENOSPC/);
  assert.equal([one, two, more.length], ["one", "two", 0]);
});

// More than the pipe holds, and less than what the child's stderr holds, whose reader may be slow as well.
test("a named pipe whose reader does not read holds nobody up for long", () => {
  using dir = folder();
  const file = join(dir.path, "pipe");
  assert.is(spawnSync("mkfifo", [file]).status, 0);
  const reader = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { stdout, lines } = written({ level: "info", file }, 'log.info("x".repeat(80_000)); log.info("two");');
    assert.is(stdout, "flushed\n");
    const [why, long, two] = lines.map((line) => JSON.parse(line).msg);
    assert.match(why, /^the log file cannot be written, logging to stderr: EAGAIN/);
    assert.equal([long?.length, two], [80_000, "two"]);
  } finally {
    closeSync(reader);
  }
});

test("a closed stderr fails nobody", () => {
  assert.equal(written({ level: "info" }, 'closeSync(2); log.info("one");', "ignore").stdout, "flushed\n");
});

test.run();
