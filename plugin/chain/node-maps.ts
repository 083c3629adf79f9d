// SPDX-License-Identifier: Apache-2.0
/**
 * Maps of scope `node`: one per program, shared by all pods that run it (a deny list, a ring buffer), pinned at
 * `<root>/node/<program>/<map>`. The first attachment that needs one makes it, or an administrator who fills it before there
 * is any; it is kept while an attachment uses it, and where an administrator has filled it, until he lets it go.
 *
 * Who uses one is in the records. A folder without a record, or with a generation that is not the record's, is an ADD or a
 * change at work (or a killed one), which may have opened any of them: as long as there is one, none is removed; the next
 * DEL or collection looks again.
 *
 * Whoever opens, pins or removes one has locked `<root>/node` for that moment. An ADD makes its attachment's folder before;
 * so a removal that has looked at the folders without seeing it is over before the ADD opens a map, and one that
 * has not looked yet will see it.
 */

import { code, RemoraError } from "../errors.ts";
import { type Fd, KernelError, type KernelPort, type Stage } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { loadAlone } from "./alone.ts";
import { findAttachments, otherGenerations } from "./attachments.ts";
import { ensureDirectory, removeIfEmpty } from "./folders.ts";
import { Lock, lock, lockDeadlines, tryLock } from "./lock.ts";
import { type AttachmentPins, decodeName, encodeName, keptEnd, nodeMapPins, rootOf } from "./pins.ts";
import { type AttachmentRecord, readRecord } from "./record.ts";
import { Attempts, Handles } from "./undo.ts";

/** How often something is tried again because others have changed what it stands on. */
const rounds = 10;

/** The names of a program's maps that its node's pods share. */
export function nodeMapsOf({ mapScopes }: CatalogProgram): string[] {
  return Object.keys(mapScopes).filter((name) => mapScopes[name] === "node");
}

/**
 * Opens those that are there already.
 *
 * @param without those that the program does not use with its parameters.
 * @throws RemoraError tryAgainLater where others keep them locked; KernelError.
 */
export function openNodeMaps(
  kernel: KernelPort,
  bpffs: string,
  program: CatalogProgram,
  without: string[],
  handles: Handles,
): { name: string; fd: Fd }[] {
  const names = nodeMapsOf(program).filter((name) => !without.includes(name));
  if (names.length === 0) return [];
  const pins = nodeMapPins(bpffs, program.name);
  return alone(kernel, pins.root, () =>
    names.flatMap((name) => {
      const pinned = handles.openPin(pins.map(name));
      return pinned ? [{ name, fd: pinned.fd }] : [];
    }),
  );
}

/** A load that failed because the maps that pods share are another object's: says what to do about it. */
export function blameNodeMaps(
  kernel: KernelPort,
  program: CatalogProgram,
  opened: { name: string; fd: Fd }[],
  failure: KernelError,
): KernelError {
  if (failure.code !== "EREFUSED") return failure;
  const others = opened.filter(({ name, fd }) => {
    const wanted = program.info.maps.find((map) => map.name === name);
    const { type, keySize, valueSize, maxEntries } = kernel.mapInfo(fd);
    const same = type === wanted?.type && keySize === wanted.keySize && valueSize === wanted.valueSize;
    return !same || maxEntries !== wanted.maxEntries;
  });
  if (others.length === 0) return failure;
  const remedies = others.map(({ name }) => `remora maps --node ${program.name} ${name} --release`);
  return new KernelError(
    failure.operation,
    failure.code,
    `${failure.message}; it was made from another object, and goes when no pod uses it any more and nobody keeps it: ${remedies.join("; ")}`,
    failure.log,
  );
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
  const fresh = stage.maps.filter(({ name }) => own.includes(name));
  if (fresh.length === 0) return true;
  return alone(kernel, pins.root, () => fresh.every(({ name, fd }) => pinOne(kernel, pins, name, fd)));
}

/** @returns false where there is one already. */
function pinOne(kernel: KernelPort, pins: ReturnType<typeof nodeMapPins>, name: string, fd: Fd): boolean {
  for (let round = 1; ; round++) {
    try {
      ensureDirectory(kernel, pins.directory);
      kernel.pin(fd, pins.map(name));
      return true;
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      if (error.code === "EEXIST") return false;
      // The folder of a network called node is the same, and goes with its last attachment.
      if (error.code !== "ENOENT" || round === rounds) throw error;
    }
  }
}

/** Removes those that no attachment uses any more and nobody keeps. Where others have them locked, that is left to those. */
export function releaseNodeMaps(kernel: KernelPort, bpffs: string): void {
  const { root } = nodeMapPins(bpffs);
  const attempts = new Attempts();
  if (programFolders(kernel, root).length > 0)
    attempts.try(() => {
      using locked = lockRoot(kernel, root, lockDeadlines.release);
      if (locked instanceof Lock) removeUnused(kernel, bpffs, attempts);
    });
  attempts.try(() => removeIfEmpty(kernel, root));
  attempts.finish();
}

function removeUnused(kernel: KernelPort, bpffs: string, attempts: Attempts): void {
  const folders = programFolders(kernel, nodeMapPins(bpffs).root);
  const maps = folders.flatMap((folder) =>
    mapsIn(kernel, folder.path).map((map) => ({ ...map, id: `${folder.name}/${map.name}` })),
  );
  const unused = unusedOf(kernel, bpffs, new Set(maps.filter(({ kept }) => !kept).map(({ id }) => id)));
  for (const { path, id } of maps) if (unused.has(id)) attempts.try(() => kernel.removePin(path));
  for (const { path } of folders) attempts.try(() => removeIfEmpty(kernel, path));
}

/** Those of some maps that no attachment uses; none where that cannot be known now. Looks no farther than it must. */
function unusedOf(kernel: KernelPort, bpffs: string, maps: Set<string>): Set<string> {
  if (maps.size === 0) return maps;
  for (const { pins } of findAttachments(kernel, bpffs)) {
    const record = settledRecord(kernel, pins);
    if (!record) return new Set();
    for (const id of usedBy(record)) maps.delete(id);
    if (maps.size === 0) break;
  }
  return maps;
}

/** The folders of programs. Those with a colon are attachments, of a network called node. */
function programFolders(kernel: KernelPort, root: string): { name: string; path: string }[] {
  return kernel
    .listDirectory(root)
    .filter(({ name, directory }) => directory && !name.includes(":"))
    .map(({ name }) => ({ name, path: `${root}/${name}` }));
}

function mapsIn(kernel: KernelPort, folder: string): { name: string; path: string; kept: boolean }[] {
  const entries = kernel.listDirectory(folder);
  const marks = entries.filter(({ directory }) => directory).map(({ name }) => name);
  return entries
    .filter(({ directory }) => !directory)
    .map(({ name }) => ({ name, path: `${folder}/${name}`, kept: marks.includes(name + keptEnd) }));
}

/** How many attachments use each, by `<program>/<map>`, both encoded; undefined where that cannot be known now. */
function usedNodeMaps(kernel: KernelPort, bpffs: string): Map<string, number> | undefined {
  const used = new Map<string, number>();
  for (const { pins } of findAttachments(kernel, bpffs)) {
    const record = settledRecord(kernel, pins);
    if (!record) return undefined;
    for (const id of usedBy(record)) used.set(id, (used.get(id) ?? 0) + 1);
  }
  return used;
}

/** Undefined where an ADD or a change is at work, or the record cannot be read. */
function settledRecord(kernel: KernelPort, pins: AttachmentPins): AttachmentRecord | undefined {
  try {
    const record = readRecord(kernel, pins);
    return record && otherGenerations(kernel, pins, record).length === 0 ? record : undefined;
  } catch {
    return undefined;
  }
}

function usedBy({ chains }: AttachmentRecord): Set<string> {
  const used = new Set<string>();
  for (const chain of Object.values(chains))
    for (const { entries, maps } of chain.stages)
      for (const { name, scope } of maps)
        if (scope === "node") for (const { program } of entries) used.add(`${encodeName(program)}/${encodeName(name)}`);
  return used;
}

// ---- what an administrator does with them ------------------------------------------------------------------------

export interface NodeMap {
  program: string;
  map: string;
  path: string;
  /** It stays when no attachment uses it. */
  kept: boolean;
  /** How many use it; null where that cannot be known now, since an ADD is at work. */
  attachments: number | null;
}

/** All of them, by program and map. */
export function listNodeMaps(kernel: KernelPort, bpffs: string): NodeMap[] {
  const { root } = nodeMapPins(bpffs);
  const folders = programFolders(kernel, root);
  const used = folders.length > 0 ? usedNodeMaps(kernel, bpffs) : undefined;
  return folders
    .flatMap((folder) =>
      mapsIn(kernel, folder.path).map(({ name, path, kept }) => ({
        program: decodeName(folder.name) ?? folder.name,
        map: decodeName(name) ?? name,
        path,
        kept,
        attachments: used ? (used.get(`${folder.name}/${name}`) ?? 0) : null,
      })),
    )
    .sort((a, b) => (`${a.program}/${a.map}` < `${b.program}/${b.map}` ? -1 : 1));
}

/**
 * A map for an administrator to change, marked to be kept: made where there is none, and locked against other
 * administrators (not against packets, nor against ADD and DEL) until the lock is given back.
 *
 * @param program is asked for where the map is to be made.
 * @throws RemoraError tryAgainLater where another is at work on it for too long; what `program` throws; KernelError.
 */
export async function claimNodeMap(
  kernel: KernelPort,
  bpffs: string,
  { program, map }: { program: string; map: string },
  find: () => Promise<CatalogProgram>,
  handles: Handles,
): Promise<{ fd: Fd; lock: Lock }> {
  const pins = nodeMapPins(bpffs, program);
  for (let round = 1; round <= rounds; round++) {
    const source = kernel.modified(pins.map(map)) === undefined ? await find() : undefined;
    alone(kernel, pins.root, () => keep(kernel, pins, map, source));
    const locked = await lock(kernel, pins, lockDeadlines.change);
    if (locked === "busy") throw busy(program, pins);
    // Let go of meanwhile, and perhaps removed: start over.
    if (locked === "gone") continue;
    const pinned = kernel.modified(pins.kept(map)) === undefined ? undefined : handles.openPin(pins.map(map));
    if (pinned) return { fd: pinned.fd, lock: locked };
    locked[Symbol.dispose]();
  }
  throw new RemoraError(code.tryAgainLater, `others keep removing the map ${map} of ${program}`);
}

/** Under the root's lock. A crash before the mark leaves a map that the next DEL or collection removes. */
function keep(
  kernel: KernelPort,
  pins: ReturnType<typeof nodeMapPins>,
  map: string,
  source: CatalogProgram | undefined,
): void {
  using handles = new Handles(kernel);
  if (!handles.openPin(pins.map(map))) {
    if (!source) return; // it went away meanwhile
    pinOne(kernel, pins, map, make(kernel, source, map, handles));
  }
  ensureDirectory(kernel, pins.kept(map));
}

/** A map as the program's own object defines it, BTF included: the program is loaded for it once, and run by no packet. */
function make(kernel: KernelPort, program: CatalogProgram, map: string, handles: Handles): Fd {
  const stage = loadAlone(
    kernel,
    {
      object: program.object,
      name: program.name,
      entries: [{ function: program.entry.ingress ?? program.entry.egress ?? "", parameters: [] }],
      proceedOn: program.proceedOn,
    },
    handles,
  );
  const made = stage.maps.find(({ name }) => name === map);
  if (!made) throw new RemoraError(code.badObject, `${program.path} was loaded without its map ${map}`);
  return made.fd;
}

/**
 * Lets a map go: from now on it stays only while an attachment uses it.
 *
 * @returns false where nobody kept it.
 * @throws RemoraError tryAgainLater where another is at work on it for too long; KernelError.
 */
export async function letGoNodeMap(
  kernel: KernelPort,
  bpffs: string,
  { program, map }: { program: string; map: string },
): Promise<boolean> {
  const pins = nodeMapPins(bpffs, program);
  const locked = await lock(kernel, pins, lockDeadlines.change);
  if (locked === "busy") throw busy(program, pins);
  let kept = false;
  if (locked !== "gone") {
    using _ = locked;
    kept = kernel.modified(pins.kept(map)) !== undefined;
    kernel.removeDirectory(pins.kept(map));
  }
  releaseNodeMaps(kernel, bpffs);
  removeIfEmpty(kernel, rootOf(bpffs));
  return kept;
}

function busy(program: string, { directory }: ReturnType<typeof nodeMapPins>): RemoraError {
  return new RemoraError(
    code.tryAgainLater,
    `another process has been changing the maps of ${program} for ${lockDeadlines.change / 1000} s: ${directory} is locked`,
  );
}

// ---- the lock ----------------------------------------------------------------------------------------------------

/** Does something while nobody else opens, pins or removes. */
function alone<T>(kernel: KernelPort, root: string, act: () => T): T {
  const end = performance.now() + lockDeadlines.add;
  for (;;) {
    ensureDirectory(kernel, root);
    using locked = lockRoot(kernel, root, Math.max(0, end - performance.now()));
    if (locked instanceof Lock) return act();
    if (performance.now() >= end)
      throw new RemoraError(
        code.tryAgainLater,
        `the maps that pods share have been locked by another process for ${lockDeadlines.add / 1000} s: ${root}`,
      );
  }
}

/** Waits without giving way to anything else of this process: what is waited for takes a few milliseconds. Null: not had. */
function lockRoot(kernel: KernelPort, root: string, deadline: number): Lock | null {
  const end = performance.now() + deadline;
  for (let pause = 1; ; pause = Math.min(2 * pause, 20)) {
    const got = tryLock(kernel, { directory: root });
    if (got instanceof Lock) return got;
    if (got === "gone" || performance.now() >= end) return null;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pause);
  }
}
