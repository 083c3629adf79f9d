// SPDX-License-Identifier: Apache-2.0
/** Ways back: what undoes steps in reverse, what closes descriptors, and what tries everything before it complains. */

import { type Fd, KernelError, type KernelPort, type Pinned } from "../kernel/port.ts";

/** Whether the kernel has failed with one of these errnos. */
export function is(error: unknown, ...codes: string[]): boolean {
  return error instanceof KernelError && codes.includes(error.code);
}

/** The steps to take back if a later one fails. */
export class Undo {
  #steps: (() => void)[] = [];

  push(step: () => void): void {
    this.#steps.push(step);
  }

  /**
   * Takes everything back, the last step first. A step that fails does not keep the others from being tried.
   * @returns whether none has failed.
   */
  unwind(report: (error: unknown) => void): boolean {
    let whole = true;
    for (const step of this.#steps.reverse()) {
      try {
        step();
      } catch (error) {
        whole = false;
        report(error);
      }
    }
    this.#steps = [];
    return whole;
  }
}

/** Descriptors that are closed at the end of a block, on success as on failure. */
export class Handles implements Disposable {
  readonly #kernel: KernelPort;
  readonly #fds: Fd[] = [];

  constructor(kernel: KernelPort) {
    this.#kernel = kernel;
  }

  own(fd: Fd): Fd {
    this.#fds.push(fd);
    return fd;
  }

  /** What is pinned at a path, to be closed with the rest; undefined where nothing is. */
  openPin(path: string): Pinned | undefined {
    try {
      const pinned = this.#kernel.openPin(path);
      this.own(pinned.fd);
      return pinned;
    } catch (error) {
      if (error instanceof KernelError && error.code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** A close that fails has closed all the same, and nobody could do anything about it. */
  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0).reverse()) {
      try {
        this.#kernel.close(fd);
      } catch {}
    }
  }
}

/** Runs steps that do not depend on each other: all of them, also after one has failed. */
export class Attempts {
  readonly errors: unknown[] = [];

  try(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.errors.push(error);
    }
  }

  /** @throws the one error there was, or an AggregateError of single ones whose message joins them all. */
  finish(): void {
    const errors = this.errors.flatMap((error) => (error instanceof AggregateError ? error.errors : [error]));
    if (errors.length === 0) return;
    if (errors.length === 1) throw errors[0];
    throw new AggregateError(errors, errors.map(messageOf).join("; "));
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
