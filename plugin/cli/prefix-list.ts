// SPDX-License-Identifier: Apache-2.0
/**
 * A list of prefixes in a map: as a file, as the difference to what the map holds, and the way from the one to the other.
 *
 * On the way each prefix that is in both stays where it is, with what the map has counted for it. Additions come first, so that
 * an address that the old and the new list deny is denied all the time; only where both together are more than
 * the map takes, old prefixes make room first. Whoever is killed on the way leaves a list between the two, and the
 * same command again completes it.
 */

import { prefixKey } from "../catalog/address.ts";
import { BadValue } from "../catalog/value.ts";
import { code, RemoraError } from "../errors.ts";
import type { Fd, KernelPort } from "../kernel/port.ts";

/** How many bad lines a message names. */
const named = 10;

/** Keys by their bytes (as hexadecimal text), in the order of the text. What stands twice is there once. */
export type Prefixes = Map<string, Buffer>;

/** @throws RemoraError badParameter for what is no prefix. */
export function prefixesOf(option: string, texts: string[]): Prefixes {
  const found: Prefixes = new Map();
  for (const text of texts)
    try {
      put(found, prefixKey.encode(text.trim()));
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      throw new RemoraError(code.badParameter, `${option}: ${error.message}; give ${prefixKey.expects}`);
    }
  return found;
}

/**
 * One prefix a line; what follows "#" or ";" is a comment, empty lines are nothing.
 *
 * @throws RemoraError badParameter that names the bad lines, the first ten at most.
 */
export function readPrefixes(path: string, text: string): Prefixes {
  const found: Prefixes = new Map();
  const bad: string[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const value = line.replace(/[#;].*/s, "").trim();
    if (value === "") continue;
    try {
      put(found, prefixKey.encode(value));
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      bad.push(`${path}:${index + 1}: ${error.message}`);
    }
  }
  if (bad.length === 0) return found;
  const others = bad.slice(1, named);
  if (bad.length > named) others.push(`and ${bad.length - named} more`);
  throw new RemoraError(code.badParameter, `${bad[0]}; give ${prefixKey.expects}; nothing was changed`, {
    details: others.length > 0 ? `Other bad lines:\n${others.join("\n")}` : "",
  });
}

function put(prefixes: Prefixes, key: Buffer): void {
  prefixes.set(key.toString("hex"), key);
}

export interface Difference {
  add: Buffer[];
  remove: Buffer[];
  /** How many the map holds, before and after. */
  before: number;
  after: number;
}

/**
 * @param wanted what shall be there, from what is there.
 * @throws RemoraError badParameter where that is more than the map takes.
 */
export function difference(current: Prefixes, wanted: (current: Prefixes) => Prefixes, capacity: number): Difference {
  const goal = wanted(current);
  if (goal.size > capacity)
    throw new RemoraError(
      code.badParameter,
      `${goal.size} prefixes are too many: the map takes ${capacity}; nothing was changed`,
    );
  return {
    add: [...goal].flatMap(([id, key]) => (current.has(id) ? [] : [key])),
    remove: [...current].flatMap(([id, key]) => (goal.has(id) ? [] : [key])),
    before: current.size,
    after: goal.size,
  };
}

/** What a map holds. */
export function prefixesIn(kernel: KernelPort, map: Fd): Prefixes {
  const { entries } = kernel.mapEntries(map, kernel.mapInfo(map).maxEntries);
  return new Map(entries.map(({ key }) => [key.toString("hex"), key]));
}

/** @throws KernelError: what was done up to there stays done. */
export function applyDifference(kernel: KernelPort, map: Fd, { add, remove, before }: Difference): void {
  const { maxEntries, valueSize } = kernel.mapInfo(map);
  const value = Buffer.alloc(valueSize);
  const makeRoom = Math.max(0, before + add.length - maxEntries);
  for (const key of remove.slice(0, makeRoom)) kernel.deleteFromMap(map, key);
  for (const key of add) kernel.updateMap(map, key, value);
  for (const key of remove.slice(makeRoom)) kernel.deleteFromMap(map, key);
}
