// SPDX-License-Identifier: Apache-2.0
/** Runs the built executable as a container runtime does, and reads its answer. */
import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import * as assert from "uvu/assert";

/** `REMORA=/opt/cni/bin/remora` runs the same tests against an installed one. */
export const executable = process.env.REMORA ?? resolve(import.meta.dirname, "../../dist/remora");

export interface Answer {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** What a runtime leaves in the environment, and nothing of this process's. */
export type Environment = Record<string, string | undefined>;

/** One call. stdin is a pipe that the writer closes, as with libcni. */
export function call(env: Environment, stdin: string): Answer {
  accessSync(executable, constants.X_OK);
  const folder = mkdtempSync(join(tmpdir(), `remora-test-${process.pid}-`));
  try {
    const file = join(folder, "stdin");
    writeFileSync(file, stdin);
    // The shell ends with what the last of the pipe ends with. Node's own pipes are sockets.
    return shell('cat "$1" | "$0"', env, file);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** One call by a shell script in which `$0` is the executable: for stdin and stdout of every kind. */
export function shell(script: string, env: Environment, ...args: string[]): Answer {
  const child = spawnSync("/bin/bash", ["-c", script, executable, ...args], {
    env: { PATH: process.env.PATH, ...env } as NodeJS.ProcessEnv,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 64 << 20,
    timeout: 60_000,
  });
  if (child.error) throw child.error;
  return { status: child.status, stdout: child.stdout, stderr: child.stderr };
}

/** The object on stdout: exactly one, with exit status 0. */
export function result(answer: Answer): Record<string, unknown> {
  const value = single(answer);
  assert.is(answer.status, 0, answer.stdout + answer.stderr);
  return value;
}

/** The error on stdout: exactly one object of the four fields, with exit status 1. */
export function failure(answer: Answer): { cniVersion: string; code: number; msg: string; details: string } {
  const value = single(answer);
  assert.is(answer.status, 1, answer.stdout);
  assert.equal(Object.keys(value), ["cniVersion", "code", "msg", "details"]);
  return value as ReturnType<typeof failure>;
}

/** Success without a word. */
export function silence(answer: Answer): void {
  assert.equal([answer.stdout, answer.status], ["", 0], answer.stderr);
  onlyLog(answer);
}

function single(answer: Answer): Record<string, unknown> {
  onlyLog(answer);
  // JSON.parse refuses what is more than one value, and what is less.
  const value: unknown = JSON.parse(answer.stdout);
  assert.ok(typeof value === "object" && value !== null && !Array.isArray(value), answer.stdout);
  return value as Record<string, unknown>;
}

/** stderr holds log lines (JSON with a level), and nothing else: no answer, no warning of Node. */
function onlyLog({ stderr }: Answer): void {
  for (const line of stderr.split("\n").filter(Boolean)) assert.type(JSON.parse(line).level, "number", line);
}
