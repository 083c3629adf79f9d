// SPDX-License-Identifier: Apache-2.0
/**
 * Runs one test file as a process of its own, with a time limit, and sees to it that nothing of it goes on running.
 * Its descendants are known by a variable in their environment, which survives setsid and a dead parent.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Ending } from "./verdict.ts";

const mark = "REMORA_TEST_RUN";
const grace = 5000;
let counter = 0;
const running = new Set<number>();

/**
 * @param limit seconds; after it the whole process group gets SIGTERM, so that it can clean up, and 5 s later SIGKILL.
 */
export async function runProgram(
  command: string,
  args: string[],
  options: { cwd: string; limit: number },
): Promise<Ending> {
  const name = `${process.pid}.${++counter}`;
  const folder = mkdtempSync(join(tmpdir(), "remora-run-"));
  const log = join(folder, "output");
  // A file, not a pipe: a daemon left behind would hold a pipe open, and we would wait for it.
  const output = openSync(log, "w");
  try {
    const child = spawn(command, args, {
      cwd: options.cwd,
      detached: true,
      stdio: ["ignore", output, output],
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, NO_COLOR: "1", [mark]: name },
    });
    const ended = new Promise<{ status: number | null; signal: string | null }>((resolve, reject) => {
      child.on("error", reject);
      child.on("exit", (status, signal) => resolve({ status, signal }));
    });
    const group = child.pid;
    if (group) running.add(group);
    let timedOut = false;
    let hard: NodeJS.Timeout | undefined;
    const soft = setTimeout(() => {
      timedOut = true;
      if (group) signalGroup(group, "SIGTERM");
      hard = setTimeout(() => group && signalGroup(group, "SIGKILL"), grace);
    }, options.limit * 1000);
    const { status, signal } = await ended.finally(() => {
      clearTimeout(soft);
      clearTimeout(hard);
      if (group) running.delete(group);
    });
    const survivors = await endSurvivors(name);
    return { status, signal, output: readFileSync(log, "utf8"), timedOut, limit: options.limit, survivors };
  } finally {
    closeSync(output);
    rmSync(folder, { recursive: true });
  }
}

/** Ends what is running now, for a run that is interrupted: each file may clean up. */
export function interruptAll(): void {
  for (const group of running) signalGroup(group, "SIGTERM");
}

/** Processes with our mark that outlive their file: those that do not go by themselves within a second are killed. */
async function endSurvivors(name: string): Promise<string[]> {
  for (let tries = 0; tries < 10 && marked(name).length > 0; tries++) await sleep(100);
  const survivors = marked(name);
  for (const survivor of survivors) {
    try {
      process.kill(survivor.pid, "SIGKILL");
    } catch {
      // gone by now
    }
  }
  return survivors.map(({ pid, command }) => `${pid} ${command}`);
}

function marked(name: string): { pid: number; command: string }[] {
  const wanted = `${mark}=${name}`;
  return readdirSync("/proc").flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    try {
      const environment = readFileSync(`/proc/${entry}/environ`, "latin1").split("\0");
      if (!environment.includes(wanted)) return [];
      const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").split("\0").join(" ").trim();
      return [{ pid: Number(entry), command }];
    } catch {
      return []; // gone, or not ours to read
    }
  });
}

function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch {
    // gone by now
  }
}
