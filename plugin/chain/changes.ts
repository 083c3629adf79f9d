// SPDX-License-Identifier: Apache-2.0
/** What a plan would change of an attachment, entry by entry, for people to read. */

import { isDeepStrictEqual } from "node:util";
import type { Direction } from "../kernel/port.ts";
import type { ParameterText, Place } from "../model.ts";
import { partnersOf } from "./carry.ts";
import { recordedPlan } from "./describe.ts";
import { chainPlaces, directionAt } from "./places.ts";
import type { ChainPlan } from "./plan.ts";
import { type AttachmentRecord, type RecordedEntry, type RecordedStage, selectionsOf } from "./record.ts";

export interface Change {
  direction: Direction;
  /** Where that chain stands. */
  at: Place;
  program: string;
  change: "added" | "removed" | "moved" | "changed";
  /** Positions, from 0; null where it is not in that chain. */
  from: number | null;
  to: number | null;
  /** What else differs, in words: `rate 10Mbit -> 20Mbit`. */
  details: string[];
}

type Described = ReturnType<typeof recordedPlan>;

/**
 * In the order of the new chain, then what is removed in the order of the old one. `moved` is what others have not merely made
 * room for: the fewest programs whose going elsewhere explains the new order.
 */
export function changesBetween(old: AttachmentRecord, plan: ChainPlan): Change[] {
  const partners = partnersOf(plan, selectionsOf(old));
  return chainPlaces.flatMap((place) => {
    const chain = { direction: directionAt(place), at: place === "host" ? "host" : "pod" } as const;
    const before = old.chains[place]?.stages ?? [];
    const after = plan.stages[place].map((stage) => recordedPlan(plan, stage));
    const from = after.map(({ entries: [entry] }) => {
      const partner = entry && partners.get(entry.selection);
      const found = before.findIndex(({ entries: [then] }) => partner !== undefined && then?.selection === partner);
      return found < 0 ? null : found;
    });
    const stayed = longestRise(from.filter((position) => position !== null));
    const changes = after.flatMap((now, to): Change[] => {
      const was = from[to] ?? null;
      const then = was === null ? undefined : before[was];
      const program = now.entries[0]?.program ?? "";
      if (was === null || !then)
        return [{ ...chain, program, change: "added", from: null, to, details: settings(now) }];
      const details = differences(then, now);
      if (!stayed.has(was)) return [{ ...chain, program, change: "moved", from: was, to, details }];
      return details.length > 0 ? [{ ...chain, program, change: "changed", from: was, to, details }] : [];
    });
    const removed = before.flatMap(({ entries: [entry] }, position): Change[] =>
      from.includes(position) || !entry
        ? []
        : [{ ...chain, program: entry.program, change: "removed", from: position, to: null, details: [] }],
    );
    return [...changes, ...removed];
  });
}

function settings({ entries: [entry] }: Described): string[] {
  if (!entry) return [];
  return [`version ${entry.version}`, ...Object.entries(entry.params).map(([name, value]) => `${name} ${value}`)];
}

function differences(then: RecordedStage, now: Described): string[] {
  const [was, is] = [then.entries[0], now.entries[0]];
  if (!was || !is) return [];
  const plain = (["version", "priority", "at", "function"] as const).flatMap((field) =>
    was[field] === is[field] ? [] : [`${field} ${was[field]} -> ${is[field]}`],
  );
  if (was.version === is.version && was.sha256 !== is.sha256)
    plain.push(`sha256 ${was.sha256.slice(0, 12)} -> ${is.sha256.slice(0, 12)}`);
  if (!isDeepStrictEqual(then.proceedOn, now.proceedOn))
    plain.push(`proceedOn ${then.proceedOn.join(",")} -> ${now.proceedOn.join(",")}`);
  if (then.failurePolicy !== now.failurePolicy)
    plain.push(`failurePolicy ${then.failurePolicy} -> ${now.failurePolicy}`);
  return [...plain, ...parameters(was, is)];
}

function parameters({ params: was }: RecordedEntry, { params: is }: RecordedEntry): string[] {
  const names = [...new Set([...Object.keys(was), ...Object.keys(is)])];
  const word = (value: ParameterText | undefined): string => (value === undefined ? "default" : String(value));
  return names.flatMap((name) => (was[name] === is[name] ? [] : [`${name} ${word(was[name])} -> ${word(is[name])}`]));
}

/** The longest rising subsequence: at most 32 numbers, so the plain quadratic way. */
function longestRise(numbers: number[]): Set<number> {
  const best: number[][] = [];
  for (const [index, number] of numbers.entries()) {
    const before = best.slice(0, index).filter((rise) => (rise.at(-1) ?? -1) < number);
    const longest = before.reduce<number[]>((a, b) => (b.length > a.length ? b : a), []);
    best.push([...longest, number]);
  }
  return new Set(best.reduce<number[]>((a, b) => (b.length > a.length ? b : a), []));
}
