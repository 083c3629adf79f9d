// SPDX-License-Identifier: Apache-2.0
/**
 * ADD: what was asked for, selected, planned and attached. Whatever fails, nothing of it stays.
 *
 * Under the failure policy `open` (the program's, else the node's) a program that does not load is left out, with both its
 * directions, and the chain is made without it: half a program would be worse than none. Where the chain as a whole cannot
 * be attached, and every program in it is open, the pod comes up without. Both are logged and recorded. A request that makes
 * no sense (no such interface, a chain too long) is an error under either policy.
 */

import { openCatalog } from "../catalog/catalog.ts";
import { attach } from "../chain/attach.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import { detachWhenFree } from "../chain/detach.ts";
import { asRemoraError } from "../chain/explain.ts";
import { EntryFailed } from "../chain/generation.ts";
import { chooseHook } from "../chain/hook.ts";
import { claim, lockDeadlines } from "../chain/lock.ts";
import { noNamespace } from "../chain/namespace.ts";
import { pinsOf } from "../chain/pins.ts";
import { findHostEnd, needsHostEnd, requireTcxAtHost } from "../chain/places.ts";
import { type ChainPlan, type PlanInput, plan, plannedPlaces, policyOf } from "../chain/plan.ts";
import { messageOf } from "../chain/undo.ts";
import type { AddRequest } from "../cni/request.ts";
import { code, RemoraError } from "../errors.ts";
import { type InterfaceInfo, KernelError, type KernelPort } from "../kernel/port.ts";
import type { Assigned, AttachmentId, Missing, Selected } from "../model.ts";
import { assignedAtAdd } from "../select/assigned.ts";
import { select } from "../select/select.ts";
import type { Context } from "./context.ts";

/** @throws RemoraError that names the pod, since the pod's events are where it is read. */
export async function add(context: Context, request: AddRequest): Promise<void> {
  try {
    await attachAskedFor(context, request);
  } catch (thrown) {
    const error = asRemoraError(thrown);
    const { pod } = request;
    const name = pod && `pod ${pod.namespace}/${pod.name}`;
    if (!name || !(error instanceof RemoraError) || error.message.includes(name)) throw error;
    throw new RemoraError(error.code, `${name}: ${error.message}`, { details: error.details, cause: error });
  }
}

async function attachAskedFor({ kernel, log }: Context, request: AddRequest): Promise<void> {
  const { config, netns, pod, annotations } = request;
  const catalog = await openCatalog(config.programDirs, kernel);
  let found: { device: InterfaceInfo; assigned: Assigned } | undefined;
  const findOnce = (): NonNullable<typeof found> => {
    const device = found?.device ?? findInterface({ kernel, log }, request);
    found ??= { device, assigned: assignedAtAdd(kernel, request, device, request.prevResult) };
    return found;
  };
  const { selected, missing } = select({ config, annotations, pod, catalog, assigned: () => findOnce().assigned });
  for (const { program, reason } of missing) log.warn(`left out ${program}: ${reason}`, about(request));
  const id = { network: config.network, containerId: request.containerId, ifname: request.ifname };
  if (selected.length === 0 && missing.length === 0) {
    // An ADD that was repeated may have attached something the first time.
    await detachWhenFree(kernel, config.bpffs, id);
    log.debug("nothing to attach", about(request));
    return;
  }
  const { hook, why } = chooseHook(kernel, config.hook);
  const input: PlanInput = {
    id,
    hook,
    netns,
    interface: findOnce().device,
    assigned: findOnce().assigned,
    pod,
    config,
    selected,
    missing,
  };
  const made = await attachWhatCanBe({ kernel, log }, withHostEnd({ kernel, log }, input, why));
  // Not at the default level: the first line that is written costs the pod 5 ms.
  if (made)
    log.debug(`attached ${words(made)} (hook ${config.hook}: ${made.hook}, ${why})`, {
      ...about(request),
      degraded: made.degraded,
    });
}

/**
 * With the host's end where a program stands there, or without the open programs that would.
 * @param why the hook is the one it is.
 */
function withHostEnd({ kernel, log }: Context, input: PlanInput, why: string): PlanInput {
  const { id, netns, selected, missing } = input;
  try {
    if (input.hook === "clsact") requireTcxAtHost(selected, why);
    return { ...input, host: findHostEnd(kernel, { netns, ifname: id.ifname, selected }) };
  } catch (error) {
    const without = selected.filter((one) => needsHostEnd([one]));
    if (!without.every((one) => policyOf(one, input.config) === "open")) throw error;
    const reason = messageOf(asRemoraError(error));
    for (const { program } of without) log.error(`left out ${program.name}: ${reason}`, { ...id });
    return {
      ...input,
      selected: selected.filter((one) => !without.includes(one)),
      missing: [...missing, ...without.map((one) => missingFor(one, reason))],
    };
  }
}

/** Attaches the chain, without the open ones that fail. Undefined where nothing at all could be put in place. */
async function attachWhatCanBe({ kernel, log }: Context, input: PlanInput): Promise<ChainPlan | undefined> {
  const chain = plan(input);
  const report = (error: unknown): void => log.warn(`taking back: ${messageOf(error)}`, { ...input.id });
  try {
    await attachAlone(kernel, chain, report);
    return chain;
  } catch (error) {
    const reason = messageOf(asRemoraError(error));
    if (input.selected.length === 0 && isOfTheNode(error)) {
      // Everything that is missing may be; that it cannot be recorded changes nothing for the pod.
      log.error(`what is missing could not be recorded: ${reason}`, { ...input.id });
      return undefined;
    }
    const without = whatToLeaveOut(error, input);
    if (without.length === 0) throw error;
    for (const { program } of without) log.error(`left out ${program.name}: ${reason}`, { ...input.id });
    return attachWhatCanBe(
      { kernel, log },
      {
        ...input,
        selected: input.selected.filter((one) => !without.includes(one)),
        missing: [...input.missing, ...without.map((one) => missingFor(one, reason))],
      },
    );
  }
}

function missingFor({ program, nodeWide }: Selected, reason: string): Missing {
  return { program: program.name, reason, ...(nodeWide && { nodeWide }) };
}

/** Under the attachment's lock, which does not outlive the attempt. */
async function attachAlone(kernel: KernelPort, chain: ChainPlan, report: (error: unknown) => void): Promise<void> {
  requireBpffs(kernel, chain.bpffs);
  using lock = await claim(kernel, pinsOf(chain.bpffs, chain.id), lockDeadlines.add);
  attach(kernel, chain, report, lock);
}

/** The programs that may be missing after this failure; none where it is an error for the pod. */
function whatToLeaveOut(error: unknown, input: PlanInput): Selected[] {
  const open = (one: Selected): boolean => policyOf(one, input.config) === "open";
  if (error instanceof EntryFailed) return open(error.selected) ? [error.selected] : [];
  return isOfTheNode(error) && input.selected.every(open) ? input.selected : [];
}

/** The kernel's failures and a missing bpffs are the node's; everything else is the request's, or a DEL's that came in between. */
function isOfTheNode(error: unknown): boolean {
  return error instanceof KernelError || (error instanceof RemoraError && error.code === code.notAvailable);
}

/** @throws RemoraError noInterface, with the interfaces that the plugins before us made there. */
function findInterface({ kernel }: Context, { netns, ifname, prevResult }: AddRequest): InterfaceInfo {
  try {
    return kernel.findInterface(netns, ifname);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    if (error.code !== "ENODEV") throw noNamespace(netns, error) ?? error;
    const made = prevResult.interfaces.filter(({ sandbox }) => sandbox !== "").map(({ name }) => name);
    throw new RemoraError(
      code.noInterface,
      `there is no interface ${ifname} in ${netns}: the plugins before this one ` +
        (made.length > 0 ? `made ${made.join(", ")} there` : "made none there") +
        "; list remora after the plugin that makes the interface",
      { cause: error },
    );
  }
}

function about({
  containerId,
  ifname,
  pod,
}: AddRequest): Pick<AttachmentId, "containerId" | "ifname"> & { pod?: string } {
  return { containerId, ifname, ...(pod ? { pod: `${pod.namespace}/${pod.name}` } : {}) };
}

function words(chain: ChainPlan): string {
  const parts = plannedPlaces(chain).map((place) => {
    const names = chain.stages[place].map(({ entries: [{ selected }] }) => selected.program.name);
    return `${place} ${names.join(", ")}`;
  });
  return parts.length > 0 ? parts.join("; ") : "no program";
}
