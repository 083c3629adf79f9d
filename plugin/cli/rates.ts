// SPDX-License-Identifier: Apache-2.0
/** Counters at two moments as rates: what `top` shows of each program. */

import { type Direction, directions } from "../kernel/port.ts";
import type { AttachmentStatus, PodIdentity, StatusEntry } from "../model.ts";

/** One program of one chain. Rates are undefined until it was seen twice. */
export interface Rated {
  containerId: string;
  pod: PodIdentity | null;
  ifname: string;
  direction: Direction;
  position: number;
  program: string;
  at: StatusEntry["at"];
  packets: number;
  bytes: number;
  /** Packets that ended here with `shot`. */
  dropped: number;
  /** Packets of a chain that could not go on. */
  broken: number;
  packetsPerSecond: number | undefined;
  bitsPerSecond: number | undefined;
  droppedPerSecond: number | undefined;
}

export interface Sample {
  /** Milliseconds of a clock that never jumps. */
  time: number;
  attachments: AttachmentStatus[];
}

/** The programs of `now` in their order, with rates against `before`. */
export function rate(before: Sample | undefined, now: Sample): Rated[] {
  const earlier = new Map((before ? rowsOf(before.attachments) : []).map((row) => [keyOf(row), row]));
  const seconds = before ? (now.time - before.time) / 1000 : 0;
  return rowsOf(now.attachments).map((row) => {
    const old = earlier.get(keyOf(row));
    // A counter that went back is another chain's: it begins to be rated now.
    const per = (count: (row: Rated) => number): number | undefined =>
      old && seconds > 0 && count(row) >= count(old) ? (count(row) - count(old)) / seconds : undefined;
    return {
      ...row,
      packetsPerSecond: per(({ packets }) => packets),
      bitsPerSecond: per(({ bytes }) => bytes * 8),
      droppedPerSecond: per(({ dropped }) => dropped),
    };
  });
}

function rowsOf(attachments: AttachmentStatus[]): Rated[] {
  return attachments.flatMap((attachment) =>
    directions.flatMap((direction) =>
      attachment[direction].map(({ program, at, packets, bytes, ended }, position) => ({
        containerId: attachment.containerId,
        pod: attachment.pod,
        ifname: attachment.ifname,
        direction,
        position,
        program,
        at,
        packets,
        bytes,
        dropped: ended.shot ?? 0,
        broken: ended.broken ?? 0,
        packetsPerSecond: undefined,
        bitsPerSecond: undefined,
        droppedPerSecond: undefined,
      })),
    ),
  );
}

function keyOf({ containerId, ifname, direction, position, program }: Rated): string {
  return [containerId, ifname, direction, position, program].join("\0");
}

/** A number of three digits or so with its magnitude: `0`, `7`, `1.2k`, `340M`. */
export function short(number: number): string {
  const units = ["", "k", "M", "G", "T", "P"];
  let unit = 0;
  let value = number;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  const digits = value >= 99.5 || (unit === 0 && Number.isInteger(value)) ? 0 : 1;
  return `${value.toFixed(digits)}${units[unit]}`;
}
