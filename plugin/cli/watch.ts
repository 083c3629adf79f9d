// SPDX-License-Identifier: Apache-2.0
/** Time, keys and signals for commands that go on until they are stopped. */

import type { ReadStream, WriteStream } from "node:tty";
import type { Watch } from "./command.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Listens until it is disposed of. Keys are read where both ends are a terminal, each as it is pressed; there Ctrl-C comes
 * as a key. A signal no longer ends the process, so that a command can put back what it changed.
 */
export function openWatch(
  stdin: Pick<ReadStream, "isTTY" | "setRawMode" | "on" | "off" | "resume" | "pause">,
  stdout: Pick<WriteStream, "isTTY" | "columns" | "rows">,
): Watch & { stop(): void } {
  let stopped = false;
  let wake: ((why: "stopped" | { key: string }) => void) | undefined;
  const stop = (): void => {
    stopped = true;
    wake?.("stopped");
  };
  const onKeys = (bytes: Buffer): void => {
    for (const key of bytes.toString("utf8")) {
      if (key === "q" || key === "\x03" || key === "\x04") stop();
      else wake?.({ key });
    }
  };
  const keys = stdin.isTTY && stdout.isTTY;
  if (keys) {
    stdin.setRawMode(true);
    stdin.on("data", onKeys);
    stdin.resume();
  }
  for (const signal of signals) process.on(signal, stop);
  return {
    stop,
    get stopped() {
      return stopped;
    },
    now: () => performance.now(),
    monotonic: () => process.hrtime.bigint(),
    date: () => Date.now(),
    size: () => ({ columns: stdout.columns ?? 0, rows: stdout.rows ?? 0 }),
    pause: (milliseconds) =>
      new Promise((resolve) => {
        if (stopped) return resolve("stopped");
        const end = (why: "elapsed" | "stopped" | { key: string }): void => {
          clearTimeout(timer);
          wake = undefined;
          resolve(why);
        };
        const timer = setTimeout(end, milliseconds, "elapsed");
        wake = end;
      }),
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, stop);
      if (!keys) return;
      stdin.off("data", onKeys);
      stdin.setRawMode(false);
      stdin.pause();
    },
  };
}
