// SPDX-License-Identifier: Apache-2.0
/** Events of stages that trace, put together to each packet's way through its chain. */

import { type Direction, traceKinds, traceLayout } from "../kernel/port.ts";
import type { Place } from "../model.ts";

/** What is known of a chain: where it stands, and for each position the programs' names and the verdicts that go on. */
export interface Chain {
  direction: Direction;
  at: Place;
  stages: { program: string; proceedOn: number[] }[];
}
/** By the tag of their events. */
export type Chains = (Chain | undefined)[];

export interface Hop {
  position: number;
  program: string;
  verdict: string;
  /** After the program: of the packet, and its mark. */
  length: number;
  mark: number;
}
/** What became of a packet, and why. */
export interface End {
  /** `passed`: it went through the whole chain. Else the verdict, in lower case, or `broken`. */
  how: string;
  /** In words. */
  why: string;
}
export interface Journey {
  /** CLOCK_MONOTONIC, in nanoseconds, when it reached the chain. */
  time: bigint;
  direction: Direction;
  /** Where the chain stands. */
  at: Place;
  /** As it reached the chain. */
  length: number;
  mark: number;
  bytes: Buffer;
  hops: Hop[];
  end: End;
}

/** TC_ACT_* by number, as linux/pkt_cls.h names them. */
const verdicts: Record<number, string> = {
  [-1]: "UNSPEC",
  0: "OK",
  1: "RECLASSIFY",
  2: "SHOT",
  3: "PIPE",
  4: "STOLEN",
  5: "QUEUED",
  6: "REPEAT",
  7: "REDIRECT",
  8: "TRAP",
};
export function verdictName(verdict: number): string {
  return verdicts[verdict] ?? String(verdict);
}

type Underway = Omit<Journey, "end"> & { packet: bigint; tag: number };

export class Journeys {
  readonly #chains: Chains;
  /** By CPU: a chain runs on one CPU from end to end, and a packet may send another within. */
  readonly #underway = new Map<string, Underway[]>();
  /** Packets of which a part was lost. */
  incomplete = 0;

  constructor(chains: Chains) {
    this.#chains = chains;
  }

  /** The packet whose last event this is; undefined where more of it is to come, or its beginning was lost. */
  add(event: Buffer): Journey | undefined {
    const kind = traceKinds[event.readUInt8(traceLayout.kind)];
    const tag = event.readUInt8(traceLayout.tag);
    const chain = this.#chains[tag];
    if (kind === undefined || chain === undefined) return undefined;
    const packet = event.readBigUInt64LE(traceLayout.packet);
    const length = event.readUInt32LE(traceLayout.length);
    const mark = event.readUInt32LE(traceLayout.mark);
    const cpu = String(event.readUInt32LE(traceLayout.cpu));
    const stack = this.#underway.get(cpu) ?? [];
    this.#underway.set(cpu, stack);
    if (kind === "arrived") {
      const captured = event.readUInt32LE(traceLayout.captured);
      const bytes = Buffer.from(event.subarray(traceLayout.header, traceLayout.header + captured));
      const time = event.readBigUInt64LE(traceLayout.time);
      const { direction, at } = chain;
      stack.push({ packet, tag, time, direction, at, length, mark, bytes, hops: [] });
      return undefined;
    }
    // Packets that began later on the same CPU have ended: what is still open of them was lost.
    const depth = stack.findIndex((open) => open.packet === packet && open.tag === tag);
    if (depth < 0) {
      this.incomplete++;
      return undefined;
    }
    this.incomplete += stack.splice(depth + 1).length;
    const open = stack[depth] as Underway;
    const position = event.readUInt16LE(traceLayout.position);
    const verdict = event.readInt32LE(traceLayout.verdict);
    const stage = chain.stages[position];
    if (kind === "returned")
      open.hops.push({ position, program: stage?.program ?? "?", verdict: verdictName(verdict), length, mark });
    const end = kind === "broken" ? brokenEnd(verdict) : endOf(chain.stages, position, verdict);
    if (end === undefined) return undefined;
    stack.pop();
    if (open.hops.length <= position) {
      this.incomplete++;
      return undefined;
    }
    const { packet: _, tag: __, ...journey } = open;
    return { ...journey, end };
  }

  /** Gives up on packets that began before a moment (nanoseconds): the rest of them was lost. */
  forget(before: bigint): void {
    for (const [cpu, stack] of this.#underway) {
      const kept = stack.filter(({ time }) => time >= before);
      this.incomplete += stack.length - kept.length;
      this.#underway.set(cpu, kept);
    }
  }
}

function brokenEnd(verdict: number): End {
  const then = verdict === 2 ? "dropped" : "passed";
  return { how: "broken", why: `the chain could not go on; ${then} by its failure policy` };
}

function endOf(chain: { program: string; proceedOn: number[] }[], position: number, verdict: number): End | undefined {
  const stage = chain[position];
  const name = verdictName(verdict);
  if (!stage?.proceedOn.includes(verdict))
    return { how: name.toLowerCase(), why: `${action(verdict)} by ${stage?.program ?? "?"} (${name})` };
  return position + 1 === chain.length ? { how: "passed", why: "passed the whole chain" } : undefined;
}

function action(verdict: number): string {
  if (verdict === 2) return "dropped";
  if (verdict === 7) return "redirected";
  if (verdict === 4 || verdict === 5 || verdict === 8) return "taken";
  return "chain ended";
}

/** Whether the packet went no further. */
export function isDropped({ end }: Pick<Journey, "end">): boolean {
  return end.how === "shot" || end.why.includes("; dropped by");
}

/** The way through the chain in one line: `count UNSPEC > acl SHOT: dropped by acl (SHOT)`. */
export function describeWay({ hops, end, length }: Pick<Journey, "hops" | "end" | "length">): string {
  let before = length;
  const way = hops.map((hop) => {
    const resized = hop.length === before ? "" : ` (${hop.length} bytes)`;
    before = hop.length;
    return `${hop.program} ${hop.verdict}${resized}`;
  });
  return `${way.join(" > ")}: ${end.why}`;
}
