// SPDX-License-Identifier: Apache-2.0
/** A chain that is planned for no pod in particular: what can be told of an ADD before there is one. */

import { RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { HookName, Missing, NodeConfig, Selected } from "../model.ts";
import { chooseHook } from "./hook.ts";
import { needsHostEnd, requireTcxAtHost } from "./places.ts";
import { type PlanInput, plan, policyOf } from "./plan.ts";

/** What a plan needs to know of a pod, and does not look at. */
const anywhere: Pick<PlanInput, "id" | "netns" | "interface" | "host" | "pod"> = {
  id: { network: "", containerId: "", ifname: "" },
  netns: "",
  interface: { ifindex: 0, mac: "", mtu: 0, namespace: { dev: 0n, ino: 0n, cookie: 0n } },
  // Whether a pod has one, its ADD will find out.
  host: { ifindex: 0, ifname: "" },
  pod: null,
};

/**
 * Plans what was selected on this node's hook.
 *
 * @returns what an ADD would attach, and what it would leave out.
 * @throws RemoraError unsupported, chainTooLong, for what an ADD would refuse.
 */
export function planAnywhere(
  kernel: KernelPort,
  config: NodeConfig,
  { selected, missing }: { selected: Selected[]; missing: Missing[] },
): { hook: HookName; selected: Selected[]; missing: Missing[] } {
  const { hook, why } = chooseHook(kernel, config.hook);
  const unable = hook === "clsact" ? selected.filter((one) => needsHostEnd([one])) : [];
  requireTcxAtHost(
    unable.filter((one) => policyOf(one, config) === "closed"),
    why,
  );
  const able = selected.filter((one) => !unable.includes(one));
  const leftOut = unable.map((one) => ({ program: one.program.name, reason: reasonOf(one, why) }));
  plan({ ...anywhere, config, hook, selected: able, missing });
  return { hook, selected: able, missing: [...missing, ...leftOut] };
}

function reasonOf(one: Selected, why: string): string {
  try {
    requireTcxAtHost([one], why);
  } catch (error) {
    if (error instanceof RemoraError) return error.message;
    throw error;
  }
  return why;
}
