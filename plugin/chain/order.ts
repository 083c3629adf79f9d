// SPDX-License-Identifier: Apache-2.0
/**
 * Who stands before a chain on its hook. A program there can end a packet's way, and the chain never sees it.
 *
 * At the host's end a chain is attached before everybody, since what stands there has to hold; who comes later can ask
 * for the same place. CHECK says so, and a change of the chain takes the place again (settle.ts). In the pod no place is
 * promised: the chain is attached behind those who are there, and `status` names them.
 */

import { KernelError, type KernelPort, type TcxProgram } from "../kernel/port.ts";
import { findAttachments } from "./attachments.ts";
import { type Hook, hookState, hooks } from "./hook.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, hookAt } from "./places.ts";
import type { AttachmentRecord } from "./record.ts";

/** Programs of others that packets meet before the chain of a place, in order. None where the chain is not attached. */
export function programsAhead(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
): TcxProgram[] {
  const own = hookState(kernel, pins, place);
  if (own.state !== "attached") return [];
  const { netns, ifindex, direction } = hookAt(place, { host: undefined, ...record });
  const hook: Hook = hooks[record.hook];
  const ahead = hook.ahead(kernel, { netns, ifindex, direction }, own.programId);
  if (ahead.length === 0) return [];
  const ours = ourHeads(kernel, pins);
  return ahead.filter(({ programId }) => !ours.has(programId));
}

/** For people: the program's name, and the id by which `bpftool prog show id` tells more. */
export function wordsFor({ name, programId }: TcxProgram): string {
  return `${name || "a program"} (id ${programId})`;
}

/** Where packets meet others first. What cannot be read is left out: the hook may be gone with its device. */
export function behindWhom(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
): { place: ChainPlace; programs: string[] }[] {
  return chainPlaces.flatMap((place) => {
    if (!record.chains[place]) return [];
    try {
      const programs = programsAhead(kernel, pins, record, place).map(wordsFor);
      return programs.length > 0 ? [{ place, programs }] : [];
    } catch (error) {
      if (error instanceof KernelError) return [];
      throw error;
    }
  });
}

/**
 * First stages of Remora's own chains, of whatever attachment: two chains on one hook know to let each other run. What
 * cannot be read of another attachment is no reason to fail this one's CHECK: it then counts as somebody else.
 */
function ourHeads(kernel: KernelPort, { root }: AttachmentPins): Set<number> {
  const heads = new Set<number>();
  for (const { pins } of findAttachments(kernel, root))
    for (const place of chainPlaces) {
      try {
        const found = hookState(kernel, pins, place);
        if (found.state === "attached") heads.add(found.programId);
      } catch (error) {
        if (!(error instanceof KernelError)) throw error;
      }
    }
  return heads;
}
