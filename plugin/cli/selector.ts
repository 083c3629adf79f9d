// SPDX-License-Identifier: Apache-2.0
/** Finds the attachments of the one pod (or container) that a person named. */

import { code, RemoraError } from "../errors.ts";
import type { AttachmentStatus } from "../model.ts";
import { UsageError } from "./command.ts";
import { printable, shortId } from "./terminal.ts";

/** How a person names an attachment's owner: `namespace/name`, or the container where no pod is known. */
export function ownerOf({ pod, containerId }: Pick<AttachmentStatus, "pod" | "containerId">): string {
  return pod === null ? `container ${shortId(containerId)}` : `${pod.namespace}/${pod.name}`;
}

/**
 * The attachments of the pod that `selector` names: a pod's name, `namespace/name`, a container id or the beginning
 * of one that no other container shares. A whole name goes before a beginning.
 *
 * @throws UsageError for an empty one; RemoraError (unknownContainer) where it names nothing, or several pods; the message lists them.
 */
export function select(attachments: AttachmentStatus[], selector: string): AttachmentStatus[] {
  return choose(attachments, selector, 1);
}

/** What docker takes to show it may take to remove; here a pod's name, typed at the wrong node, must not be some other pod's id. */
const shortestToChange = 4;

/** As `select`, for what changes a chain: of an id it takes four characters, or all of it. @throws as well unknownContainer for less. */
export function selectToChange(attachments: AttachmentStatus[], selector: string): AttachmentStatus[] {
  return choose(attachments, selector, shortestToChange);
}

/** @param shortest beginning of a container id that will do. */
function choose(attachments: AttachmentStatus[], selector: string, shortest: number): AttachmentStatus[] {
  // Every id begins with it: a script's empty variable would name the only pod there is.
  if (selector === "") throw new UsageError('the pod is "": give a name, namespace/name or a container id');
  const whole = attachments.filter(
    ({ pod, containerId }) =>
      containerId === selector ||
      (pod !== null && (pod.name === selector || `${pod.namespace}/${pod.name}` === selector)),
  );
  const found = whole.length > 0 ? whole : attachments.filter(({ containerId }) => containerId.startsWith(selector));
  const owners = new Map(found.map((each) => [identity(each), each]));
  if (owners.size === 1 && whole.length === 0 && selector.length < shortest)
    throw new RemoraError(
      code.unknownContainer,
      `no pod is called ${JSON.stringify(selector)}, and what changes a chain takes at least ${shortest} characters of a ` +
        "container id; it is the beginning of:",
      { details: listing([...owners.values()]) },
    );
  if (owners.size === 1) return found;
  if (owners.size > 1) {
    throw new RemoraError(
      code.unknownContainer,
      `${JSON.stringify(selector)} names ${owners.size} pods; say namespace/name or more of the container id`,
      { details: listing([...owners.values()]) },
    );
  }
  const all = [...new Map(attachments.map((each) => [identity(each), each])).values()];
  throw new RemoraError(
    code.unknownContainer,
    all.length === 0
      ? `no pod or container ${JSON.stringify(selector)}: nothing is attached on this node`
      : `no pod or container ${JSON.stringify(selector)}; attached are:`,
    { details: listing(all) },
  );
}

/** The same pod after its sandbox was made again is still the same pod. */
function identity({ pod, containerId }: AttachmentStatus): string {
  return pod === null ? containerId : `${pod.namespace}/${pod.name}`;
}

const mostListed = 20;

function listing(attachments: AttachmentStatus[]): string {
  const lines = attachments
    .slice(0, mostListed)
    .map(
      (each) => `  ${printable(ownerOf(each))}${each.pod === null ? "" : `  container ${shortId(each.containerId)}`}`,
    );
  if (attachments.length > mostListed) lines.push(`  and ${attachments.length - mostListed} more`);
  return lines.join("\n");
}
