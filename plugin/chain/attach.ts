// SPDX-License-Identifier: Apache-2.0
/**
 * Carries out a plan. What a crash leaves behind, step by step:
 *
 *  1. the folder is made, where the lock has not made it yet. It claims the attachment: a DEL that will not wait takes it
 *     away, and this ADD fails at its next pin instead of leaving a chain that nobody would remove.
 *     A crash leaves an empty folder, whose name says whose it is.
 *  2. what an earlier ADD of the same attachment left in it is removed
 *  3. maps and stages are loaded; the verifier has its say. All of it lives in descriptors, but maps of scope node, which are
 *     pinned at once: a crash leaves no more than those and 2.
 *  4. the generation is pinned, then the record with the program ids, as the journal (`record_next`). A crash leaves pins
 *     that no packet runs through.
 *  5. links are attached, and each is pinned. A link without a pin dies with this process. A crash between two of them
 *     leaves one place without its chain, and the journal: who settles the attachment next (gc, CHECK, a change) attaches
 *     the others, and where that cannot be, takes all of it away (settle.ts).
 *  6. the journal takes the record's name: the attachment is whole.
 *
 * DEL and another ADD remove each of these states by the folder's name, and so does gc where no link is attached. An error at
 * any step takes back all earlier ones, in reverse, and is the one that is reported. Where a chain cannot be taken off its
 * device again, the pins it needs stay, as after an interrupted DEL.
 */

import type { KernelPort } from "../kernel/port.ts";
import { recordOf } from "./describe.ts";
import { detach, emptyAttachment, removeShared } from "./detach.ts";
import { makeAttachmentFolder } from "./folders.ts";
import { type Generation, loadGeneration, makeGenerationFolder, pinGeneration } from "./generation.ts";
import { hooks } from "./hook.ts";
import { byOvertaking, type Lock, overtaken } from "./lock.ts";
import { type AttachmentPins, pinsOf } from "./pins.ts";
import { type ChainPlace, chainPlaces } from "./places.ts";
import { type ChainPlan, plannedPlaces } from "./plan.ts";
import { recordedNamespace, writeRecord } from "./record.ts";
import { finish } from "./settle.ts";
import { Attempts, Handles, Undo } from "./undo.ts";

/**
 * Attaches what a plan says, in place of what is there. A plan with no program and nothing missing leaves nothing.
 *
 * @param lock the attachment's, to notice a DEL that would not wait for it.
 * @param report is told what failed while taking back; the error that started it is thrown.
 * @throws EntryFailed for a program that does not load; KernelError; RemoraError unknownContainer where a DEL of this
 *   attachment came in between.
 */
export function attach(
  kernel: KernelPort,
  plan: ChainPlan,
  report: (error: unknown) => void = () => {},
  lock?: Lock,
): void {
  if (plannedPlaces(plan).length === 0 && plan.degraded.length === 0) {
    detach(kernel, plan.bpffs, plan.id);
    return;
  }
  const pins = pinsOf(plan.bpffs, plan.id);
  const undo = new Undo();
  const unhook = new Undo();
  using handles = new Handles(kernel);
  try {
    claimFolder(kernel, pins, undo);
    emptyAttachment(kernel, pins);
    const generation = loadGeneration(kernel, plan, handles);
    if (plannedPlaces(plan).length > 0) makeGenerationFolder(kernel, plan, pins, undo);
    pinGeneration(kernel, plan, generation, pins, undo);
    writeRecord(kernel, pins.nextRecord, recordOf(plan, generation), undo);
    if (lock?.held() === false) throw overtaken(plan.id);
    for (const place of chainPlaces) link(kernel, plan, generation, place, pins, handles, unhook);
    // Once more: the name that is given away now must not be that of another ADD, which came after a DEL.
    if (lock?.held() === false) throw overtaken(plan.id);
    finish(kernel, pins);
  } catch (error) {
    if (unhook.unwind(report)) undo.unwind(report);
    else dropJournal(kernel, pins, report);
    throw byOvertaking(error, plan.id) ?? error;
  }
}

/**
 * What could not be taken off its device needs the pins: without them its chain would be empty, and drop all packets. Without the
 * journal it is what an interrupted DEL leaves, and whoever comes next removes it: DEL, another ADD, or gc.
 */
function dropJournal(kernel: KernelPort, pins: AttachmentPins, report: (error: unknown) => void): void {
  try {
    kernel.removePin(pins.nextRecord);
  } catch (error) {
    report(error);
  }
}

/** The folder is made, or is there already: locked by this ADD, or left by an earlier one. */
function claimFolder(kernel: KernelPort, pins: AttachmentPins, undo: Undo): void {
  undo.push(() => {
    const attempts = new Attempts();
    removeShared(kernel, pins, attempts);
    attempts.finish();
  });
  undo.push(() => kernel.removeDirectory(pins.directory));
  makeAttachmentFolder(kernel, pins);
}

function link(
  kernel: KernelPort,
  plan: ChainPlan,
  generation: Generation,
  place: ChainPlace,
  pins: AttachmentPins,
  handles: Handles,
  undo: Undo,
): void {
  const first = generation[place]?.stages[0];
  if (!first) return;
  const { netns, interface: device, host } = plan;
  const { program, programId } = first;
  const request = {
    place,
    program,
    programId,
    netns,
    ifindex: device.ifindex,
    host,
    namespace: recordedNamespace(device.namespace),
  };
  hooks[plan.hook].attach(kernel, pins, request, { handles, undo });
}
