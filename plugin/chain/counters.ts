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
import { u32 } from "./generation.ts";

/** Whole numbers since the chain was made. `proceeded` and all of `ended` together are `packets`. */
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
