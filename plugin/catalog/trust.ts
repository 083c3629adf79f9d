// SPDX-License-Identifier: Apache-2.0
/**
 * Which files Remora believes. A program runs in the kernel, so whoever can change its object owns the node: each
 * directory on the way to it and the object itself must be root's, and nobody else may write there.
 *
 * Paths are walked component by component, as the kernel does it, symlinks included. Where only root can change any of
 * these components, what was checked cannot be exchanged afterwards by anybody else; the file is then opened once, and
 * what counts is what fstat says of the open descriptor, which is also what is read.
 */

import type { Stats } from "node:fs";
import { constants, lstatSync, readdirSync, readlinkSync } from "node:fs";
import { dirname, isAbsolute, join, sep } from "node:path";
import { code, RemoraError } from "../errors.ts";
import { readRegularFile } from "./file.ts";

/** What the kernel allows on one path, too (`MAXSYMLINKS`). */
const mostSymlinks = 40;
const writableByOthers = 0o022;
const sticky = 0o1000;

function untrusted(path: string, wrong: string, remedy: string): RemoraError {
  return new RemoraError(code.untrustedFile, `${path} is not to be trusted: ${wrong}; ${remedy}`);
}

function octal(stat: Stats): string {
  return (stat.mode & 0o7777).toString(8).padStart(4, "0");
}

/** Kept free of a shell's surprises, since it is meant to be pasted. */
function quoted(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function requireRootOwned(path: string, stat: Stats): void {
  if (stat.uid === 0) return;
  const command = stat.isSymbolicLink() ? "chown -h root:root" : "chown root:root";
  throw untrusted(path, `its owner is uid ${stat.uid}, not root`, `mend it with: ${command} ${quoted(path)}`);
}

function requireOnlyRootWrites(path: string, stat: Stats): void {
  if ((stat.mode & writableByOthers) === 0) return;
  const who = stat.mode & 0o002 ? "everybody" : `group ${stat.gid}`;
  throw untrusted(path, `its mode ${octal(stat)} lets ${who} write`, `mend it with: chmod go-w ${quoted(path)}`);
}

/** In a sticky directory (`/tmp`) others may add names but not exchange root's: fine on the way, not for programs. */
function requireTrustedDirectory(path: string, stat: Stats, onTheWay: boolean): void {
  if (!stat.isDirectory()) throw untrusted(path, "it is not a directory", "name a directory");
  requireRootOwned(path, stat);
  if (onTheWay && stat.mode & sticky) return;
  requireOnlyRootWrites(path, stat);
}

function isBelow(path: string, directory: string): boolean {
  return path.startsWith(directory === sep ? sep : directory + sep);
}

/**
 * Follows a path and checks each component but the last. Below `home` (and `home` itself) the rule of a program
 * directory holds; elsewhere the rule for what is on the way.
 */
function walk(path: string, home: string | undefined): { real: string; stat: Stats } {
  const pending = path.split(sep);
  let current: string = sep;
  let stat = lstatSync(current);
  let symlinks = 0;
  for (let name = pending.shift(); name !== undefined; name = pending.shift()) {
    if (name === "" || name === ".") continue;
    const onTheWay = home === undefined || !(current === home || isBelow(current, home));
    requireTrustedDirectory(current, stat, onTheWay);
    const next = name === ".." ? dirname(current) : join(current, name);
    const nextStat = lstatSync(next);
    if (!nextStat.isSymbolicLink()) {
      current = next;
      stat = nextStat;
      continue;
    }
    requireRootOwned(next, nextStat);
    symlinks += 1;
    if (symlinks > mostSymlinks) throw untrusted(path, "its symlinks lead in a circle", "remove the wrong one");
    const target = readlinkSync(next);
    pending.unshift(...target.split(sep));
    if (isAbsolute(target)) {
      current = sep;
      stat = lstatSync(current);
    }
  }
  return { real: current, stat };
}

function isErrno(error: unknown, ...names: string[]): boolean {
  return error instanceof Error && "code" in error && names.includes(String(error.code));
}

function readable<T>(path: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (error instanceof RemoraError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new RemoraError(code.ioFailure, `cannot read ${path}: ${reason}`, { cause: error });
  }
}

/** A program directory that was found to be trustworthy; `path` as configured, `real` without symlinks. */
export interface TrustedDirectory {
  path: string;
  real: string;
  /** Names in it, sorted. */
  names: string[];
}

/**
 * Checks and lists a program directory. Undefined where there is none.
 * Throws RemoraError untrustedFile, ioFailure; invalidConfig where the path is not absolute.
 */
export function openTrustedDirectory(path: string): TrustedDirectory | undefined {
  if (!isAbsolute(path)) {
    throw new RemoraError(code.invalidConfig, `program directory "${path}" must be an absolute path`);
  }
  return readable(path, () => {
    try {
      const { real, stat } = walk(path, undefined);
      requireTrustedDirectory(real, stat, false);
      return { path, real, names: readdirSync(real).sort() };
    } catch (error) {
      if (isErrno(error, "ENOENT")) return undefined;
      throw error;
    }
  });
}

/**
 * Reads a regular file of a trusted directory whole. It may be a symlink to another place in the same directory
 * (versioned names), never out of it. Throws RemoraError untrustedFile (also above `maxBytes`), ioFailure.
 */
export function readTrustedFile(directory: TrustedDirectory, name: string, maxBytes: number): Buffer {
  const path = join(directory.path, name);
  return readable(path, () => {
    const { real } = walk(join(directory.real, name), directory.real);
    if (!isBelow(real, directory.real)) {
      const remedy = `put a copy in its place: cp --remove-destination ${quoted(real)} ${quoted(path)}`;
      throw untrusted(path, `it is a symlink that leads out of its directory, to ${real}`, remedy);
    }
    return readRegularFile(real, {
      maxBytes,
      flags: constants.O_NOFOLLOW,
      refuse: (wrong, remedy) => untrusted(path, wrong, remedy),
      examine(stat) {
        requireRootOwned(real, stat);
        requireOnlyRootWrites(real, stat);
      },
    });
  });
}
