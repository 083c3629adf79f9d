// SPDX-License-Identifier: Apache-2.0
/**
 * Loads the native addon.
 *
 * An addon can only be loaded from a file, but the runtime carries it inside: so the first start writes it, in one
 * step, to a folder that nobody but its owner can write to, under a name that holds its digest. Later starts look at
 * the file's owner, mode and size, which is enough: only a finished, synced file ever gets that name, and who could
 * change it there could change the runtime as well.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  writeSync,
} from "node:fs";
import { constants as os } from "node:os";
import { dirname, join } from "node:path";
import { getAssetKeys, getRawAsset, isSea } from "node:sea";
import { KernelError } from "./port.ts";

/** Where the addon may be written, in order: beside the runtime, where mapping executable pages is known to work, ... */
const fallbacks = ["/run/remora", "/var/lib/remora"];

const operation = "loadAddon";

/**
 * The addon's exports. Throws a KernelError that names every folder that was tried and what was wrong with it.
 * In the runtime the addon is an asset, and its key the file's name (scripts/make/runtime.ts puts it there); run from
 * source, it is the file that native/build.sh leaves.
 */
export function loadAddon(): unknown {
  if (!isSea()) return open(join(import.meta.dirname, "../../native/build/Release/remora.node"));
  const name = getAssetKeys().find((key) => key.endsWith(".node"));
  if (name === undefined) throw new KernelError(operation, "ENOENT", "this runtime was built without its addon");
  const content = new Uint8Array(getRawAsset(name));
  return loadFromFirst([dirname(realpathSync(process.execPath)), ...fallbacks], name, content, open);
}

/**
 * Places the addon in the first folder that is fit for it and from which `load` can load it (a folder may lie on a
 * mount with noexec, which only loading shows). A missing folder is made, where its parent is there.
 */
export function loadFromFirst(
  folders: readonly string[],
  name: string,
  content: Uint8Array,
  load: (path: string) => unknown,
): unknown {
  const reasons: string[] = [];
  for (const folder of folders) {
    try {
      return load(place(folder, name, content));
    } catch (error) {
      reasons.push(`${folder}: ${(error as Error).message}`);
    }
  }
  throw new KernelError(
    operation,
    "EREFUSED",
    `no folder to load the addon from: one of them must belong to root, be writable by nobody else, and not be mounted read-only or noexec (${reasons.join("; ")})`,
  );
}

/** Puts the file into the folder unless it is there already, and returns its path. Any number of processes may do so at once. */
export function place(folder: string, name: string, content: Uint8Array): string {
  makeFolder(folder);
  requireFolder(folder);
  const path = join(folder, name);
  if (!isFinished(path, content.byteLength)) write(path, content);
  return path;
}

function open(path: string): unknown {
  const module = { exports: {} };
  // All symbols at once: one that is missing is an error here and not in the middle of an attachment.
  process.dlopen(module, path, os.dlopen.RTLD_NOW);
  return module.exports;
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if (
      (error as NodeJS.ErrnoException).code !== "EEXIST" &&
      lstatSync(folder, { throwIfNoEntry: false }) === undefined
    )
      throw error;
  }
}

/** Refuses a folder in which, or on the way to which, somebody else could put another file in place of ours. */
function requireFolder(folder: string): void {
  for (let path = folder; ; path = dirname(path)) {
    const found = lstatSync(path);
    if (found.isSymbolicLink()) throw new Error(`${path} is a symbolic link`);
    if (!found.isDirectory()) throw new Error(`${path} is not a directory`);
    requireOwner(path, found);
    // In a sticky folder (/tmp) others may add names, but cannot take ours away.
    const sticky = path !== folder && (found.mode & 0o1000) !== 0;
    if (isWritableByOthers(found) && !sticky) throw new Error(`${path} is writable by others`);
    if (path === "/") return;
  }
}

function requireOwner(path: string, found: Stats): void {
  if (!isOurs(found)) throw new Error(`${path} belongs to user ${found.uid}`);
}

/** Root's, or our own where we are not root. */
const isOurs = (found: Stats): boolean => found.uid === 0 || found.uid === process.geteuid?.();
const isWritableByOthers = (found: Stats): boolean => (found.mode & 0o022) !== 0;

function isFinished(path: string, size: number): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found?.isFile() === true && isOurs(found) && !isWritableByOthers(found) && found.size === size;
}

/** Writes a sibling and renames it, which also replaces whatever else has the name, a symbolic link included. */
function write(path: string, content: Uint8Array): void {
  const temporary = `${path}.${process.pid}.${process.hrtime.bigint()}`;
  const fd = openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    try {
      for (let done = 0; done < content.byteLength; ) done += writeSync(fd, content, done);
      fchmodSync(fd, 0o644);
      // Once in the life of an installation; without it a power cut could leave the name on an empty file.
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}
