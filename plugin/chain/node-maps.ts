// SPDX-License-Identifier: Apache-2.0
/**
 * Maps of scope `node`: one per program, shared by all pods that run it (a deny list, a ring buffer), pinned at
 * `<root>/node/<program>/<map>`. The first attachment that needs one makes it; it is kept while any attachment uses it.
 *
 * Who uses one is in the records. A folder without a record, or with a generation that is not the record's, is an ADD or a
 * change at work (or a killed one), which may have opened any of them: as long as there is one, none is removed; the next
 * DEL or collection looks again.
 */

import { KernelError, type KernelPort, type Stage } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { findAttachments, otherGenerations } from "./attachments.ts";
import { ensureDirectory, removeIfEmpty } from "./folders.ts";
import { encodeName, nodeMapPins } from "./pins.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { Attempts, type Handles } from "./undo.ts";

/** How often a folder is made again that another's DEL has removed as empty. */
const rounds = 10;

/** The names of a program's maps that its node's pods share. */
export function nodeMapsOf({ mapScopes }: CatalogProgram): string[] {
  return Object.keys(mapScopes).filter((name) => mapScopes[name] === "node");
}

/** Opens those that are there already. */
export function openNodeMaps(bpffs: string, program: CatalogProgram, handles: Handles): { name: string; fd: number }[] {
  const pins = nodeMapPins(bpffs, program.name);
  return nodeMapsOf(program).flatMap((name) => {
    const pinned = handles.openPin(pins.map(name));
    return pinned ? [{ name, fd: pinned.fd }] : [];
  });
}

/**
 * Pins those that a stage brought along, for everybody who comes later.
 *
 * @returns false where another ADD was faster: the stage must be loaded again, with that one's maps.
 */
export function pinNodeMaps(
  kernel: KernelPort,
  bpffs: string,
  program: CatalogProgram,
  stage: Stage,
  reused: { name: string }[],
): boolean {
  const pins = nodeMapPins(bpffs, program.name);
  const own = nodeMapsOf(program).filter((name) => !reused.some((map) => map.name === name));
  for (const { name, fd } of stage.maps) {
    if (!own.includes(name)) continue;
    for (let round = 1; ; round++) {
      try {
        ensureDirectory(kernel, pins.directory);
        kernel.pin(fd, pins.map(name));
        break;
      } catch (error) {
        if (!(error instanceof KernelError)) throw error;
        if (error.code === "EEXIST") return false;
        if (error.code !== "ENOENT" || round === rounds) throw error;
      }
    }
  }
  return true;
}

/** Removes those that no attachment uses any more. */
export function releaseNodeMaps(kernel: KernelPort, bpffs: string): void {
  const all = nodeMapPins(bpffs);
  const programs = kernel.listDirectory(all.root).filter(({ name, directory }) => directory && !name.includes(":"));
  const used = programs.length > 0 ? usedNodeMaps(kernel, bpffs) : new Set<string>();
  if (!used) return;
  const attempts = new Attempts();
  for (const { name: program } of programs) {
    const folder = `${all.root}/${program}`;
    attempts.try(() => {
      for (const { name } of kernel.listDirectory(folder))
        if (!used.has(`${program}/${name}`)) attempts.try(() => kernel.removePin(`${folder}/${name}`));
    });
    attempts.try(() => removeIfEmpty(kernel, folder));
  }
  attempts.try(() => removeIfEmpty(kernel, all.root));
  attempts.finish();
}

/** As `<program>/<map>`, both encoded; undefined where that cannot be known now. */
function usedNodeMaps(kernel: KernelPort, bpffs: string): Set<string> | undefined {
  const used = new Set<string>();
  for (const { pins } of findAttachments(kernel, bpffs)) {
    let record: AttachmentRecord | undefined;
    try {
      record = readRecord(kernel, pins);
      if (!record || otherGenerations(kernel, pins, record).length > 0) return undefined;
    } catch {
      return undefined;
    }
    for (const chain of Object.values(record.chains))
      for (const { entries, maps } of chain.stages)
        for (const { name, scope } of maps)
          if (scope === "node")
            for (const { program } of entries) used.add(`${encodeName(program)}/${encodeName(name)}`);
  }
  return used;
}
