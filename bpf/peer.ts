// SPDX-License-Identifier: Apache-2.0
/** A node process inside a namespace, for tests with real sockets: it says something first, and answers each line. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as wait } from "node:timers/promises";
import * as assert from "uvu/assert";
import type { Namespace } from "../e2e/lib/scratch.ts";

export class Peer implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];

  /** `script` reads lines from its stdin and writes lines to its stdout, each no sooner than it is true. */
  constructor(namespace: Namespace, script: string) {
    const args = ["netns", "exec", namespace.name, process.execPath, "-e", script];
    this.#child = spawn("ip", args, { stdio: ["pipe", "pipe", "inherit"] });
    let rest = "";
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      this.#lines.push(...lines);
      this.#child.emit("line");
    });
  }

  /** The next line that it has written. Throws after a minute without one. */
  async line(): Promise<string> {
    const deadline = AbortSignal.timeout(60_000);
    while (this.#lines.length === 0) await once(this.#child, "line", { signal: deadline });
    return this.#lines.shift() ?? "";
  }

  tell(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  ask(line: string): Promise<string> {
    this.tell(line);
    return this.line();
  }

  async [Symbol.asyncDispose]() {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill();
    await ended;
  }
}

/** Asks again and again until the answer is this one; throws after a minute with the last difference. */
export async function until(what: () => unknown, is: unknown): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      return assert.equal(await what(), is);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await wait(50);
  }
}
