// SPDX-License-Identifier: Apache-2.0
/** The verbs: what Remora does for each CNI command. Each file is loaded with its verb alone. */

import { asRemoraError } from "../chain/explain.ts";
import type { Verbs } from "../cni/dispatch.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { Log } from "../log.ts";
import type { Context } from "./context.ts";

/**
 * The table that dispatch demands.
 *
 * @param parts.kernel is called once, by the first verb that runs.
 * @returns verbs that throw RemoraError, and anything else only where Remora has a bug.
 */
export function createVerbs(parts: { kernel: () => KernelPort; log: Log }): Verbs {
  let kernel: KernelPort | undefined;
  const run =
    <R>(load: () => Promise<(context: Context, request: R) => void | Promise<void>>) =>
    async (request: R): Promise<void> => {
      try {
        const verb = await load();
        kernel ??= parts.kernel();
        await verb({ kernel, log: parts.log }, request);
      } catch (error) {
        throw asRemoraError(error);
      }
    };
  return {
    add: run(async () => (await import("./add.ts")).add),
    del: run(async () => (await import("./del.ts")).del),
    check: run(async () => (await import("./check.ts")).check),
    gc: run(async () => (await import("./gc.ts")).gc),
    status: run(async () => (await import("./status.ts")).status),
  };
}
