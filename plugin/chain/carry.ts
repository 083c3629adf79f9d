// SPDX-License-Identifier: Apache-2.0
/**
 * What goes on from one generation to the next: which program of the new chain is which of the old one, and which of its
 * maps it keeps, so that token buckets stay as empty and flow tables as full as they are.
 */

import { isDeepStrictEqual } from "node:util";
import type { KernelPort } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import type { Carried } from "./generation.ts";
import { nodeMapsOf } from "./node-maps.ts";
import { type ChainPlace, chainPlaces, directionAt } from "./places.ts";
import type { ChainPlan } from "./plan.ts";
import {
  type AttachmentRecord,
  type RecordedMap,
  type RecordedSelection,
  type RecordedStage,
  selectionsOf,
} from "./record.ts";
import type { Handles } from "./undo.ts";

/** How a new chain follows the one that is there. */
export interface Succession {
  previous: NonNullable<AttachmentRecord["previous"]>;
  /** Where the program of a new position stood in the old chain of the same place. */
  continues(place: ChainPlace, position: number): number | undefined;
  /** The old maps that the program of a new position goes on with. */
  maps(place: ChainPlace, position: number): Pick<RecordedMap, "name" | "id">[];
}

export function succession(plan: ChainPlan, old: AttachmentRecord): Succession {
  const partners = partnersOf(plan, selectionsOf(old));
  const formerly = (place: ChainPlace, position: number, at: ChainPlace): number | undefined => {
    const selection = partners.get(plan.selected.indexOf(stageAt(plan, place, position).entries[0].selected));
    if (selection === undefined) return undefined;
    const found = old.chains[at]?.stages.findIndex(({ entries }) => entries[0]?.selection === selection) ?? -1;
    return found < 0 ? undefined : found;
  };
  return {
    previous: {
      generation: old.generation,
      countHead: Object.fromEntries(
        chainPlaces.flatMap((place) => {
          const stages = old.chains[place]?.stages;
          return stages ? [[place, stages.map(({ countHead }) => countHead)]] : [];
        }),
      ),
    },
    continues: (place, position) => formerly(place, position, place),
    maps(place, position) {
      const { program } = stageAt(plan, place, position).entries[0].selected;
      // A program with a function per direction has one set of maps, whichever of them was in the chain. Its egress side may
      // have moved between the pod and the host's end.
      const shared = program.entry.ingress !== program.entry.egress;
      const others = chainPlaces.filter(
        (other) => other !== place && (shared || directionAt(other) === directionAt(place)),
      );
      for (const at of [place, ...others]) {
        const before = formerly(place, position, at);
        const stage = before === undefined ? undefined : old.chains[at]?.stages[before];
        if (stage) return compatibleMaps(stage, program);
      }
      return [];
    },
  };
}

/** Opens what is carried over, for a load. */
export function openCarried(kernel: KernelPort, { maps }: Succession, handles: Handles): Carried {
  return (place, position) =>
    maps(place, position).map(({ name, id }) => ({ name, fd: handles.own(kernel.openMapById(id)) }));
}

/**
 * What two maps must agree on for a program to go on with the other's. Variables (`.data`, `.bss`) have names and places
 * of the object that compiled them, so the whole object must be the same. Never carried over: parameters (`.rodata`),
 * which are what a change changes, and PROG_ARRAYs, which hold code: the new object's programs in an array that the old
 * generation still calls would be a mixed chain.
 */
export function definitionOf(name: string, program: CatalogProgram): string {
  const map = program.info.maps.find((each) => each.name === name);
  if (!map) return "";
  const { type, keySize, valueSize, maxEntries, flags, internal, layout } = map;
  if (type === "prog_array" || (internal && !/\.(data|bss)/.test(name))) return "";
  const words = [type, keySize, valueSize, maxEntries, flags, layout];
  return [...words, ...(internal ? [program.sha256] : [])].join(" ");
}

function compatibleMaps(stage: RecordedStage, program: CatalogProgram): RecordedMap[] {
  const ofNode = nodeMapsOf(program);
  return stage.maps.filter(
    ({ name, scope, definition }) =>
      scope === "pod" && !ofNode.includes(name) && definition !== "" && definition === definitionOf(name, program),
  );
}

function stageAt(plan: ChainPlan, place: ChainPlace, position: number): ChainPlan["stages"]["ingress"][number] {
  const stage = plan.stages[place][position];
  if (!stage) throw new Error(`no position ${position} is planned for ${place}`);
  return stage;
}

/**
 * New selection to old one, by number: a program's first stands for its first, and so on; but one with the same parameters and
 * directions at the same place goes before, so that of two rate limits the one that stays keeps its own bucket.
 */
export function partnersOf({ selected }: ChainPlan, old: RecordedSelection[]): Map<number, number> {
  const partners = new Map<number, number>();
  const taken = new Set<number>();
  const pair = (fits: (now: ChainPlan["selected"][number], then: RecordedSelection) => boolean): void => {
    for (const [index, now] of selected.entries()) {
      if (partners.has(index)) continue;
      const found = old.findIndex(
        (then, number) => !taken.has(number) && then.program === now.program.name && fits(now, then),
      );
      if (found < 0) continue;
      partners.set(index, found);
      taken.add(found);
    }
  };
  pair(
    (now, then) =>
      now.at === then.at &&
      isDeepStrictEqual(now.shown, then.params) &&
      isDeepStrictEqual([...now.directions], [...then.directions]),
  );
  pair(() => true);
  return partners;
}
