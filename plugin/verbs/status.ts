// SPDX-License-Identifier: Apache-2.0
/**
 * STATUS: whether an ADD could work. It names the first reason why not: no bpffs that can be written, BPF not permitted, a
 * program directory that is not to be trusted, a node-wide chain that cannot be had, planned or attached on this kernel. A
 * program that may be missing is no reason, nor is a kernel without TCX to a node whose pods need have no programs.
 */

import { openCatalog } from "../catalog/catalog.ts";
import { planAnywhere } from "../chain/anywhere.ts";
import { requireWritableBpffs } from "../chain/bpffs.ts";
import { asRemoraError } from "../chain/explain.ts";
import { policyOf } from "../chain/plan.ts";
import type { StatusRequest } from "../cni/request.ts";
import { code, RemoraError } from "../errors.ts";
import { KernelError, type KernelPort } from "../kernel/port.ts";
import type { NodeConfig } from "../model.ts";
import { select } from "../select/select.ts";
import type { Context } from "./context.ts";

/** @throws RemoraError notAvailable, whatever the reason. */
export async function status({ kernel }: Context, { config }: StatusRequest): Promise<void> {
  try {
    requireWritableBpffs(kernel, config.bpffs);
    requireBpf(kernel);
    await requireChain(kernel, config);
  } catch (thrown) {
    const error = asRemoraError(thrown);
    if (!(error instanceof RemoraError) || error.code === code.notAvailable) throw error;
    throw new RemoraError(code.notAvailable, `no pod could be given its chain: ${error.message}`, {
      details: error.details,
      cause: error,
    });
  }
}

/** The node-wide chain, as an ADD of a pod without wishes of its own would select it. */
async function requireChain(kernel: KernelPort, config: NodeConfig): Promise<void> {
  const catalog = await openCatalog(config.programDirs, kernel);
  for (const { state } of catalog.directories) if (state instanceof RemoraError) throw state;
  const asked = select({ config, annotations: undefined, pod: null, catalog });
  const { hook, selected } = planAnywhere(kernel, config, asked);
  // What may be missing is left out by an ADD, and no reason.
  if (hook === "tcx" && selected.some((one) => policyOf(one, config) === "closed")) requireTcx(kernel);
}

/** Looks at the hook of lo, the first device of every network namespace. Nothing is attached for it. */
function requireTcx(kernel: KernelPort): void {
  try {
    kernel.listTcx({ netns: undefined, ifindex: 1, direction: "ingress" });
  } catch (error) {
    if (!(error instanceof KernelError && error.code === "EINVAL")) return;
    throw new RemoraError(code.kernelTooOld, "the kernel has no TCX, which came with Linux 6.6", { cause: error });
  }
}

/** Makes the map that every chain begins with, and lets go of it. */
function requireBpf(kernel: KernelPort): void {
  try {
    kernel.close(
      kernel.createMap({ type: "prog_array", name: "remora_status", keySize: 4, valueSize: 4, maxEntries: 1 }),
    );
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    throw new RemoraError(
      code.notAvailable,
      `BPF cannot be used: ${error.message} (${error.code}); Remora needs root with CAP_BPF and CAP_NET_ADMIN, and a kernel with BPF`,
      { cause: error },
    );
  }
}
