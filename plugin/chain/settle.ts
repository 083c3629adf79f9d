// SPDX-License-Identifier: Apache-2.0
/**
 * Settled ground: whatever an interrupted ADD or change has left of an attachment, it is the old chain or the new one
 * afterwards, and nothing else. Done under the attachment's lock, by whoever comes next: a change, CHECK or gc. (ADD and DEL
 * remove everything anyway.)
 *
 * What tells how far it came is the journal, `record_next`. With it, the change was decided: the links are given the
 * new chain, and the record its name; or, if that cannot be done, the old chain. An ADD has no old one: its
 * attachment is finished, or goes as a whole; one that died before its first link has attached nothing, and is left to gc.
 * Without the journal, a generation that is not the record's is one that was never attached, or one that no longer is: it is
 * removed when no packet can be in it.
 */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import { hookStates, otherGenerations } from "./attachments.ts";
import { totalCounts, writeBase } from "./counters.ts";
import { removeAttachment, removeTree } from "./detach.ts";
import { type Hook, hooks, unhook } from "./hook.ts";
import { programsAhead } from "./order.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, requireHostEnd } from "./places.ts";
import { type AttachmentRecord, isSameNamespace, readNextRecord, readRecord, wordsForNamespace } from "./record.ts";
import { attachFirst, tcx } from "./tcx.ts";
import { settleTrace } from "./trace.ts";
import { Attempts, Handles, messageOf, Undo } from "./undo.ts";

/**
 * Settles an attachment.
 *
 * @returns what was done, in words; undefined where there was nothing to do.
 * @throws RemoraError, KernelError: it is as unsettled as before, and can be tried again.
 */
export function settle(kernel: KernelPort, pins: AttachmentPins): string | undefined {
  tcx.remove(kernel, pins.nextLink);
  const decided = decide(kernel, pins);
  const record = readRecord(kernel, pins);
  const traced = record && settleTrace(kernel, pins, () => point(kernel, pins, record));
  const removed = record !== undefined && release(kernel, pins, record);
  return decided ?? traced ?? (removed ? "the rest of an interrupted change was removed" : undefined);
}

function decide(kernel: KernelPort, pins: AttachmentPins): string | undefined {
  const next = readNextRecord(kernel, pins);
  if (!next) return undefined;
  const old = readRecord(kernel, pins);
  if (!old && !hookStates(kernel, pins).includes("attached")) return undefined;
  const what = old ? "change" : "ADD";
  try {
    point(kernel, pins, next, old);
    finish(kernel, pins);
    return `an interrupted ${what} was completed: generation ${next.generation}`;
  } catch (error) {
    try {
      if (old) {
        point(kernel, pins, old, next);
        kernel.removePin(pins.nextRecord);
      } else removeAttachment(kernel, pins);
    } catch {
      throw error;
    }
    return `an interrupted ${what} was taken back: ${messageOf(error)}`;
  }
}

/**
 * Gives each link the first stage of a record's chain. Does nothing where it has it, and may be repeated.
 *
 * A packet of the pod passes two chains, one after the other, and they are switched one after the other. A program that moves
 * between them must not be in neither meanwhile: where the host's end gains one, it comes first. (Where one moves there and
 * another back in the same change, the latter is missing for that moment.)
 *
 * @param before what the links may still point to, if that is known.
 */
export function point(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  before?: AttachmentRecord,
): void {
  const places = gainsAtHost(record, before) ? chainPlaces.toReversed() : chainPlaces;
  const heads = places.map((place) => ({ place, head: record.chains[place]?.stages[0]?.programId }));
  for (const { place, head } of heads) if (head !== undefined) pointOne(kernel, pins, record, place, head);
  // What only takes away comes last: nothing after it can fail and want it back.
  for (const { place, head } of heads) if (head === undefined) unhook(kernel, pins, place);
}

function gainsAtHost(record: AttachmentRecord, before: AttachmentRecord | undefined): boolean {
  const there = programsAtHost(before);
  return programsAtHost(record).some((name) => {
    const index = there.indexOf(name);
    if (index >= 0) there.splice(index, 1);
    return index < 0;
  });
}

function programsAtHost(record: AttachmentRecord | undefined): string[] {
  return (record?.chains.host?.stages ?? []).flatMap(({ entries }) => entries.map(({ program }) => program));
}

function pointOne(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
  head: number,
): void {
  using handles = new Handles(kernel);
  const hook: Hook = hooks[record.hook];
  const path = hook.pin(pins, place);
  const found = hook.state(kernel, path);
  if (found.state === "foreign")
    throw new RemoraError(code.attachmentDiffers, `${path} is a ${found.kind}, not a ${hook.noun}`);
  const attached = found.state === "attached";
  const behind = attached && place === "host" && programsAhead(kernel, pins, record, place).length > 0;
  if (attached && found.programId === head && !behind) return;
  const program = handles.own(kernel.openProgramById(head));
  const request = { host: undefined, ...record, place, program, programId: head };
  if (attached) {
    if (behind) attachFirst(kernel, pins, request);
    else hook.update(kernel, path, program);
    return;
  }
  // What lost its device cannot be attached again: it goes, and a new one takes its name.
  if (found.state !== "missing") hook.remove(kernel, path);
  requireNamespace(kernel, record);
  if (place === "host") requireHostEnd(kernel, record, record.netns);
  const undo = new Undo();
  try {
    hook.attach(kernel, pins, request, { handles, undo });
  } catch (error) {
    undo.unwind(() => {});
    throw error;
  }
}

/** Paths of namespaces are used again, and so are the indices of interfaces: another pod's must not get this chain. */
function requireNamespace(kernel: KernelPort, record: AttachmentRecord): void {
  const found = kernel.namespaceIdentity(record.netns);
  if (found && isSameNamespace(record.namespace, found)) return;
  throw new RemoraError(
    code.attachmentDiffers,
    `${record.netns} is not the network namespace any more that the chain was attached in, ${wordsForNamespace(record.namespace)}`,
  );
}

/** The new record takes the old one's name: the change is done. */
export function finish(kernel: KernelPort, pins: AttachmentPins): void {
  kernel.renamePin(pins.nextRecord, pins.record);
}

/**
 * Removes the generations that are not the record's, once no packet is in them, after the last counts of the one before
 * were carried on. May be repeated from any point: counts are written as sums, not added, and the old ones are
 * there as a whole or not at all.
 *
 * @returns whether there was any.
 */
export function release(kernel: KernelPort, pins: AttachmentPins, record: AttachmentRecord): boolean {
  const stale = otherGenerations(kernel, pins, record);
  if (stale.length === 0) return false;
  kernel.awaitPrograms();
  if (record.previous && stale.includes(record.previous.generation)) carryCounts(kernel, pins, record, record.previous);
  const attempts = new Attempts();
  for (const number of stale) removeTree(kernel, pins.root, pins.generation(number), attempts);
  attempts.finish();
  return true;
}

/** What the generation before has counted, its own base included, becomes the base of this one. */
function carryCounts(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  previous: NonNullable<AttachmentRecord["previous"]>,
): void {
  for (const place of chainPlaces) {
    const chain = record.chains[place];
    const countHead = previous.countHead[place];
    if (!chain?.baseId || !countHead) continue;
    const before = totalCounts(kernel, pins.direction(previous.generation, place), countHead);
    if (!before) continue; // carried on already, and partly removed
    using handles = new Handles(kernel);
    const base = handles.own(kernel.openPin(pins.direction(record.generation, place).base).fd);
    for (const [position, { continues }] of chain.stages.entries()) {
      const counts = continues === undefined ? undefined : before[continues];
      if (counts) writeBase(kernel, base, position, counts);
    }
  }
}
