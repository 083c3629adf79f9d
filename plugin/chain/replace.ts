// SPDX-License-Identifier: Apache-2.0
/**
 * Gives an attachment another chain while packets run through the one it has. Done under the attachment's lock, on settled
 * ground (settle.ts). Step by step, and what a crash leaves behind:
 *
 *  1. The new generation is loaded beside the old one, with the old one's maps where they fit, and pinned: nothing points
 *     to it yet. A crash, as any error up to here, leaves the old chain as it is; what is half made is removed later.
 *  2. The new record is pinned beside the old one: the journal. From here on the change is decided; after a crash
 *     it is carried on.
 *  3. Each link is given the first stage of its new chain. A packet meets the whole old chain or the whole new one, since each
 *     stage belongs to one generation and calls only stages of its own.
 *  4. The new record takes the old one's name.
 *  5. When no packet is in the old generation any more, its counts are carried on and it is removed.
 */

import { isDeepStrictEqual } from "node:util";
import { code, RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import { openCarried, type Succession, succession } from "./carry.ts";
import { check } from "./check.ts";
import { totalCounts, writeBase } from "./counters.ts";
import { recordedPlan, recordOf } from "./describe.ts";
import { removeShared } from "./detach.ts";
import { type Generation, loadGeneration, makeGenerationFolder, pinGeneration } from "./generation.ts";
import { byOvertaking, type Lock, overtaken } from "./lock.ts";
import { releaseNodeMaps } from "./node-maps.ts";
import { type AttachmentPins, pinsOf } from "./pins.ts";
import { chainPlaces } from "./places.ts";
import type { ChainPlan } from "./plan.ts";
import { type AttachmentRecord, writeRecord } from "./record.ts";
import { finish, point, release } from "./settle.ts";
import { Attempts, Handles, Undo } from "./undo.ts";

export interface ReplaceOptions {
  /** Is told what failed while taking back, and what could not be cleaned up yet after the change. */
  report?: (error: unknown) => void;
  /** The attachment's, to notice a DEL that would not wait for it. */
  lock?: Lock;
}

/**
 * @param old what is attached, settled.
 * @param plan of the generation after it: `generation` is one more.
 * @returns the new record.
 * @throws EntryFailed, KernelError: the old chain is in place. RemoraError unknownContainer where a DEL came in between.
 */
export function replace(
  kernel: KernelPort,
  plan: ChainPlan,
  old: AttachmentRecord,
  { report = () => {}, lock }: ReplaceOptions = {},
): AttachmentRecord {
  if (plan.generation !== old.generation + 1) throw new Error(`generation ${plan.generation} after ${old.generation}`);
  const pins = pinsOf(plan.bpffs, plan.id);
  const undo = new Undo();
  using handles = new Handles(kernel);
  let record: AttachmentRecord | undefined;
  let decided = false;
  undo.push(() => {
    const attempts = new Attempts();
    removeShared(kernel, pins, attempts);
    attempts.finish();
  });
  try {
    // First of all, so that node-wide maps that the load opens are known to be in use (see node-maps.ts).
    makeGenerationFolder(kernel, plan, pins, undo);
    const follows = succession(plan, old);
    const generation = loadGeneration(kernel, plan, handles, openCarried(kernel, follows, handles));
    startCounts(kernel, pins, old, generation, follows, plan);
    pinGeneration(kernel, plan, generation, pins, undo);
    record = recordOf(plan, generation, follows);
    writeRecord(kernel, pins.nextRecord, record, undo);
    if (lock?.held() === false) throw overtaken(plan.id);
    decided = true;
    point(kernel, pins, record, old);
    finish(kernel, pins);
  } catch (error) {
    if (!decided || pointBack(kernel, pins, old, record, report)) undo.unwind(report);
    throw byOvertaking(error, plan.id) ?? error;
  }
  try {
    release(kernel, pins, record);
    releaseNodeMaps(kernel, pins.root);
  } catch (error) {
    report(error);
  }
  return record;
}

/**
 * @returns false where not all links could be given the old chain again. Then the new one must stay as well, and the journal:
 *   whoever comes next settles it.
 */
function pointBack(
  kernel: KernelPort,
  pins: AttachmentPins,
  old: AttachmentRecord,
  record: AttachmentRecord | undefined,
  report: (error: unknown) => void,
): boolean {
  try {
    point(kernel, pins, old, record);
    kernel.removePin(pins.nextRecord);
    // For a moment packets went into what is taken back now.
    kernel.awaitPrograms();
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/** Whether an attachment is already as the plan wants it, so that nothing is to be done. */
export function isAsPlanned(kernel: KernelPort, plan: ChainPlan, old: AttachmentRecord): boolean {
  const planned = chainPlaces.map((place) => plan.stages[place].map((stage) => recordedPlan(plan, stage)));
  const recorded = chainPlaces.map((place) =>
    (old.chains[place]?.stages ?? []).map(({ countHead, proceedOn, failurePolicy, entries }) => ({
      countHead,
      proceedOn,
      failurePolicy,
      entries,
    })),
  );
  if (!isDeepStrictEqual(planned, recorded) || !isDeepStrictEqual(plan.degraded, old.degraded)) return false;
  try {
    check(kernel, plan.bpffs, plan.id, plan.netns);
    return true;
  } catch (error) {
    // Somebody has changed what is attached: making it anew mends it.
    if (error instanceof RemoraError && error.code === code.attachmentDiffers) return false;
    throw error;
  }
}

/** The base of the new counters, as of now: what is shown never falls back. The final word is said after the wait. */
function startCounts(
  kernel: KernelPort,
  pins: AttachmentPins,
  old: AttachmentRecord,
  generation: Generation,
  follows: Succession,
  plan: ChainPlan,
): void {
  for (const place of chainPlaces) {
    const loaded = generation[place];
    const chain = old.chains[place];
    if (!loaded?.base || !chain) continue;
    const counts = totalCounts(
      kernel,
      pins.direction(old.generation, place),
      chain.stages.map(({ countHead }) => countHead),
    );
    for (const position of plan.stages[place].keys()) {
      const before = follows.continues(place, position);
      const count = before === undefined ? undefined : counts?.[before];
      if (count) writeBase(kernel, loaded.base.fd, position, count);
    }
  }
}
