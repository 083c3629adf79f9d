// SPDX-License-Identifier: Apache-2.0
/** A plan, and the generation that was loaded from it, as the record says it. */

import type { Stage } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { definitionOf, type Succession } from "./carry.ts";
import { type Generation, mapsToPin } from "./generation.ts";
import { nodeMapsOf } from "./node-maps.ts";
import type { ChainPlace } from "./places.ts";
import { type ChainPlan, type PlannedStage, plannedPlaces } from "./plan.ts";
import {
  type AttachmentRecord,
  type RecordedChain,
  type RecordedEntry,
  type RecordedStage,
  recordedNamespace,
  recordFormat,
} from "./record.ts";

/** The record of an attachment. `succession` where the generation follows another. */
export function recordOf(plan: ChainPlan, generation: Generation, succession?: Succession): AttachmentRecord {
  const chains: AttachmentRecord["chains"] = {};
  for (const place of plannedPlaces(plan)) chains[place] = recordedChain(plan, generation, place, succession);
  return {
    format: recordFormat,
    id: plan.id,
    pod: plan.pod,
    netns: plan.netns,
    namespace: recordedNamespace(plan.interface.namespace),
    ifindex: plan.interface.ifindex,
    ...(plan.host && { host: plan.host }),
    ...(plan.assigned && { assigned: plan.assigned }),
    hook: plan.hook,
    generation: plan.generation,
    failurePolicy: plan.failurePolicy,
    degraded: plan.degraded,
    programDirs: plan.programDirs,
    ...(succession && { previous: succession.previous }),
    chains,
  };
}

/** What the record says of a planned stage that no load is needed to know. */
export function recordedPlan(
  plan: ChainPlan,
  stage: PlannedStage,
): Pick<RecordedStage, "countHead" | "proceedOn" | "failurePolicy" | "entries"> {
  return {
    countHead: stage.countHead,
    proceedOn: stage.proceedOn,
    failurePolicy: stage.failurePolicy,
    entries: stage.entries.map(
      ({ selected, function: name }): RecordedEntry => ({
        selection: plan.selected.indexOf(selected),
        program: selected.program.name,
        function: name,
        at: selected.at,
        version: selected.program.version,
        sha256: selected.program.sha256,
        priority: selected.priority,
        params: selected.shown,
        nodeWide: selected.nodeWide,
      }),
    ),
  };
}

function recordedChain(
  plan: ChainPlan,
  generation: Generation,
  place: ChainPlace,
  succession: Succession | undefined,
): RecordedChain {
  const loaded = generation[place];
  if (!loaded) throw new Error(`the ${place} chain was planned and not loaded`);
  return {
    chainId: loaded.chainId,
    countersId: loaded.countersId,
    ...(loaded.base && { baseId: loaded.base.id }),
    stages: plan.stages[place].map((planned, position) => {
      const stage = loaded.stages[position];
      if (!stage) throw new Error(`position ${position} was planned and not loaded`);
      const continues = succession?.continues(place, position);
      return {
        programId: stage.programId,
        ...recordedPlan(plan, planned),
        maps: recordedMaps(stage, planned.entries[0].selected.program),
        ...(continues !== undefined && { continues }),
      };
    }),
  };
}

function recordedMaps(stage: Stage, program: CatalogProgram): RecordedStage["maps"] {
  const ofNode = nodeMapsOf(program);
  const pinned = mapsToPin(stage, program);
  return stage.maps.map((map) => ({
    name: map.name,
    id: map.id,
    scope: ofNode.includes(map.name) ? "node" : "pod",
    pinned: ofNode.includes(map.name) || pinned.includes(map),
    definition: definitionOf(map.name, program),
  }));
}
