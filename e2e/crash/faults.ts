// SPDX-License-Identifier: Apache-2.0
/** The kernel port with one operation that goes wrong, and an account of all it was asked and of all it made. */
import { KernelError, type KernelPort, type Stage } from "../../plugin/kernel/port.ts";

export interface Faulty {
  kernel: KernelPort;
  /** The names of the operations so far, the one that went wrong included. */
  operations: string[];
}

/**
 * @param at the operation, counted from 1, in whose place `fault` is called. A descriptor is closed in any case, as the
 *   kernel does when close(2) fails.
 * @param made is told each BPF object that was made, as `bpf program 12`, as soon as it is there.
 */
export function faulty(
  real: KernelPort,
  at: number,
  fault: (operation: string) => never,
  made: (object: string) => void = () => {},
): Faulty {
  const operations: string[] = [];
  const kernel = new Proxy(real, {
    get(target, name: keyof KernelPort) {
      const run = target[name] as (...args: unknown[]) => unknown;
      return (...args: unknown[]) => {
        operations.push(name);
        if (operations.length === at) {
          if (name === "close") run(...args);
          fault(name);
        }
        const result = run(...args);
        for (const object of objectsOf(real, name, result)) made(object);
        return result;
      };
    },
  });
  return { kernel, operations };
}

function objectsOf(real: KernelPort, name: keyof KernelPort, result: unknown): string[] {
  switch (name) {
    case "createMap":
      return [`bpf map ${real.mapInfo(result as number).id}`];
    case "attachTcx":
      return [`bpf link ${real.linkInfo(result as number).id}`];
    case "loadStage": {
      const { programId, maps } = result as Stage;
      return [`bpf program ${programId}`, ...maps.map(({ id }) => `bpf map ${id}`)];
    }
    default:
      return [];
  }
}

/** The error mode: EIO, which no code expects. */
export function inputOutputError(operation: string): never {
  throw new KernelError(operation, "EIO", `${operation}: Input/output error (injected)`);
}

/** The kill mode. */
export function killed(): never {
  process.kill(process.pid, "SIGKILL");
  for (;;); // until the signal is here
}
