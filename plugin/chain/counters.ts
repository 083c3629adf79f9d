// SPDX-License-Identifier: Apache-2.0
/**
 * A chain's counters as people read them. The fast path counts at the head and where a packet ends, never on the way on:
 * so what a position saw is what the last counted head saw, less what ended in between.
 *
 * Traffic goes on while they are read. A packet is counted at a head before it can end, and ends at one position only, so
 * rows are read from the last position to the first: each head is then at least as new as the endings that are taken
 * from it, and no position seems to have ended more than it saw. Within one row, which the kernel copies word by
 * word, a packet in flight can still be seen half: what would be negative is 0.
 */

import { counterLayout, type Ending, endings, type Fd, type KernelPort } from "../kernel/port.ts";
import { u32 } from "./bytes.ts";
import type { ChainPins } from "./pins.ts";
import { Handles } from "./undo.ts";

/** Whole numbers since the generation was made, or since the program joined the chain. `proceeded` and all of `ended` together are `packets`. */
export interface Counts {
  packets: number;
  bytes: number;
  proceeded: number;
  ended: Record<Ending, number>;
}

/** Reads the counters of each position; `countHead` says at which ones entering packets are counted. */
export function readCounters(kernel: KernelPort, counters: Fd, countHead: boolean[]): Counts[] {
  const rows: Row[] = [];
  for (let position = countHead.length - 1; position >= 0; position--)
    rows[position] = sumOverCpus(kernel.lookupMap(counters, u32(position)));
  return derive(rows, countHead);
}

/**
 * What each position of one direction has counted since its program joined the chain: this generation's counters and, where
 * there is one, its base.
 *
 * @returns undefined where the counters are not pinned (any more).
 */
export function totalCounts(kernel: KernelPort, pins: ChainPins, countHead: boolean[]): Counts[] | undefined {
  using handles = new Handles(kernel);
  const counters = handles.openPin(pins.counters)?.fd;
  if (counters === undefined) return undefined;
  const counts = readCounters(kernel, counters, countHead);
  const base = handles.openPin(pins.base)?.fd;
  if (base === undefined) return counts;
  const earlier = readBase(kernel, base, countHead.length);
  return counts.map((each, position) => sumOf(each, earlier[position] ?? noCounts()));
}

/** What earlier generations have counted, one row of plain numbers per position. */
function readBase(kernel: KernelPort, base: Fd, length: number): Counts[] {
  return Array.from({ length }, (_, position) => {
    const row = kernel.lookupMap(base, u32(position));
    const word = (index: number): number => Number(row?.readBigUInt64LE(index * 8) ?? 0n);
    return {
      packets: word(0),
      bytes: word(1),
      proceeded: word(2),
      ended: Object.fromEntries(endings.map((ending, index) => [ending, word(3 + index)])) as Record<Ending, number>,
    };
  });
}

/** Writes one row of a base. */
export function writeBase(kernel: KernelPort, base: Fd, position: number, counts: Counts): void {
  const row = Buffer.alloc(baseLength);
  const words = [counts.packets, counts.bytes, counts.proceeded, ...endings.map((ending) => counts.ended[ending])];
  words.forEach((value, index) => {
    row.writeBigUInt64LE(BigInt(value), index * 8);
  });
  kernel.updateMap(base, u32(position), row);
}

/** Bytes of a row of a base. */
export const baseLength = (3 + endings.length) * 8;

function sumOf(a: Counts, b: Counts): Counts {
  return {
    packets: a.packets + b.packets,
    bytes: a.bytes + b.bytes,
    proceeded: a.proceeded + b.proceeded,
    ended: Object.fromEntries(endings.map((ending) => [ending, a.ended[ending] + b.ended[ending]])) as Counts["ended"],
  };
}

/** Nothing counted. */
export function noCounts(): Counts {
  return { packets: 0, bytes: 0, proceeded: 0, ended: endedOf(sumOverCpus(undefined)) };
}

type Row = bigint[];

function sumOverCpus(values: Buffer | undefined): Row {
  const row: Row = new Array(counterLayout.words).fill(0n);
  const cpus = Math.floor((values?.length ?? 0) / (counterLayout.words * 8));
  for (let cpu = 0; cpu < cpus; cpu++)
    for (let word = 0; word < counterLayout.words; word++)
      row[word] = at(row, word) + (values?.readBigUInt64LE((cpu * counterLayout.words + word) * 8) ?? 0n);
  return row;
}

function derive(rows: Row[], countHead: boolean[]): Counts[] {
  let packets = 0n;
  let bytes = 0n;
  return rows.map((row, position) => {
    if (countHead[position]) {
      packets = at(row, counterLayout.headPackets);
      bytes = at(row, counterLayout.headBytes);
    }
    const ended = row.slice(counterLayout.endings).reduce((sum, count) => sum + count, 0n);
    const saw = { packets, bytes };
    packets = notNegative(packets - ended);
    bytes = notNegative(bytes - at(row, counterLayout.endedBytes));
    return {
      packets: Number(saw.packets),
      bytes: Number(saw.bytes),
      proceeded: Number(packets),
      ended: endedOf(row),
    };
  });
}

function endedOf(row: Row): Record<Ending, number> {
  const pairs = endings.map((ending, index) => [ending, Number(at(row, counterLayout.endings + index))]);
  return Object.fromEntries(pairs) as Record<Ending, number>;
}

function at(row: Row, word: number): bigint {
  return row[word] ?? 0n;
}

function notNegative(value: bigint): bigint {
  return value < 0n ? 0n : value;
}
