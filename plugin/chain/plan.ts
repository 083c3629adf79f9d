// SPDX-License-Identifier: Apache-2.0
/**
 * What will be attached, decided before anything is touched: from the selected programs to the stages of each
 * place. Pure: the same input gives the same plan, and what cannot stand is refused here, with the reason.
 */

import { code, RemoraError } from "../errors.ts";
import type { InterfaceInfo, ObjectProgram } from "../kernel/port.ts";
import type {
  Assigned,
  AttachmentId,
  FailurePolicy,
  HookName,
  Missing,
  NodeConfig,
  PodIdentity,
  Selected,
} from "../model.ts";
import {
  type ChainPlace,
  chainPlaces,
  directionAt,
  type HostEnd,
  needsHostEnd,
  noHostEnd,
  placeOf,
  requireTcxAtHost,
} from "./places.ts";

/** Positions of one chain. */
export const longestChain = 32;
/** Linux' MAX_TAIL_CALL_CNT. Since 6.12 the chain's own calls and those inside its programs share it. */
export const tailCallBudget = 33;

export interface PlanInput {
  id: AttachmentId;
  /** The network namespace's path, as the runtime named it. */
  netns: string;
  interface: InterfaceInfo;
  /** Where a program stands at the host's end: see `findHostEnd`. */
  host?: HostEnd | undefined;
  /** For the record: the next change asks for it. */
  assigned?: Assigned | undefined;
  pod: PodIdentity | null;
  config: Pick<NodeConfig, "bpffs" | "failurePolicy" | "hook" | "programDirs">;
  /** What `auto` has come to (see hook.ts); TCX where nothing is said. */
  hook?: HookName | undefined;
  /** In the order of the chain. */
  selected: Selected[];
  missing: Missing[];
  /** Counts the chains that an attachment has had; the first one is 1. */
  generation?: number;
}

/** One call of a stage: a function of a selected program. */
export interface PlannedEntry {
  selected: Selected;
  function: string;
}
/** One position. A list of one entry for now: several may share a program later. */
export interface PlannedStage {
  entries: [PlannedEntry];
  /** TC_ACT_* that go on to the next position. */
  proceedOn: number[];
  failurePolicy: FailurePolicy;
  countHead: boolean;
  /** The stage, already loaded by then, whose writable maps this one uses as well. */
  sharesMapsWith: { place: ChainPlace; position: number } | undefined;
}
export interface ChainPlan {
  id: AttachmentId;
  bpffs: string;
  netns: string;
  interface: InterfaceInfo;
  /** Only where a chain stands there. */
  host: HostEnd | undefined;
  assigned: Assigned | undefined;
  pod: PodIdentity | null;
  hook: HookName;
  generation: number;
  failurePolicy: FailurePolicy;
  degraded: Missing[];
  /** Where the programs were looked up: the next change looks there again. */
  programDirs: string[];
  /** In the order of the chain, those of all places together. */
  selected: Selected[];
  /** Empty where a place has no program: it gets no chain. */
  stages: Record<ChainPlace, PlannedStage[]>;
}

/**
 * @throws RemoraError chainTooLong where a place has more than 32 programs, or more tail calls than one packet may
 *   make; unsupported for what is described but not built yet, and for a host's end that is not there.
 */
export function plan(input: PlanInput): ChainPlan {
  refuseUnsupported(input);
  const stages = {
    ingress: stagesOf("ingress", input),
    egress: stagesOf("egress", input),
    host: stagesOf("host", input),
  };
  for (const place of chainPlaces) {
    requireRoom(place, stages[place]);
    requireTailCalls(place, stages[place]);
  }
  shareMaps(stages);
  return {
    id: input.id,
    bpffs: input.config.bpffs,
    netns: input.netns,
    interface: input.interface,
    host: stages.host.length > 0 ? input.host : undefined,
    assigned: input.assigned,
    pod: input.pod,
    hook: hookOf(input),
    generation: input.generation ?? 1,
    failurePolicy: input.config.failurePolicy,
    degraded: input.missing,
    programDirs: input.config.programDirs,
    selected: input.selected,
    stages,
  };
}

/** The places that get a chain. */
export function plannedPlaces(plan: ChainPlan): ChainPlace[] {
  return chainPlaces.filter((place) => plan.stages[place].length > 0);
}

/** What a person calls the chain of a place. */
function words(place: ChainPlace): string {
  return place === "host" ? "host's" : place;
}

/** What holds for a program that cannot be attached or run: its manifest's word, else the node's. */
export function policyOf(selected: Selected, config: Pick<NodeConfig, "failurePolicy">): FailurePolicy {
  return selected.program.failurePolicy ?? config.failurePolicy;
}

function stagesOf(place: ChainPlace, { selected, config }: PlanInput): PlannedStage[] {
  const direction = directionAt(place);
  const stages: PlannedStage[] = [];
  let before: ObjectProgram | undefined;
  for (const one of selected) {
    if (!one.directions.includes(direction) || placeOf(direction, one) !== place) continue;
    const name = one.program.entry[direction];
    const entry = one.program.info.programs.find((program) => program.name === name);
    if (name === undefined || entry === undefined)
      throw new RemoraError(code.internal, `${one.program.name} has no function for ${direction}`);
    stages.push({
      entries: [{ selected: one, function: name }],
      proceedOn: one.program.proceedOn,
      failurePolicy: policyOf(one, config),
      // A position's bytes are known from the head's only as long as packets keep their length on the way.
      countHead: before === undefined || before.resizes,
      sharesMapsWith: undefined,
    });
    before = entry;
  }
  return stages;
}

/**
 * A program with a function for each direction keeps its state (flows, buckets) in one place: its egress uses the maps of
 * its ingress. The same function in both directions has separate state, or each would count the other's packets.
 */
function shareMaps(stages: Record<ChainPlace, PlannedStage[]>): void {
  for (const stage of [...stages.egress, ...stages.host]) {
    const [entry] = stage.entries;
    const position = stages.ingress.findIndex(({ entries: [other] }) => other.selected === entry.selected);
    const other = stages.ingress[position];
    if (other && other.entries[0].function !== entry.function) stage.sharesMapsWith = { place: "ingress", position };
  }
}

function requireRoom(place: ChainPlace, stages: PlannedStage[]): void {
  if (stages.length <= longestChain) return;
  const beyond = stages.slice(longestChain).map(nameOf);
  throw new RemoraError(
    code.chainTooLong,
    `the ${words(place)} chain would hold ${stages.length} programs, at most ${longestChain} fit: ` +
      `no room for ${beyond.join(", ")}`,
    { details: `the chain in its order: ${stages.map(nameOf).join(", ")}` },
  );
}

function requireTailCalls(place: ChainPlace, stages: PlannedStage[]): void {
  const own = stages.length - 1;
  const inner = stages
    .map((stage) => ({ name: nameOf(stage), calls: tailCallsOf(stage) }))
    .filter(({ calls }) => calls);
  const sum = inner.reduce((total, { calls }) => total + calls, own);
  if (inner.length === 0 || sum <= tailCallBudget) return;
  throw new RemoraError(
    code.chainTooLong,
    `the ${words(place)} chain could make ${sum} tail calls for one packet, the kernel allows ${tailCallBudget}: ` +
      `${own} between its ${stages.length} programs, and inside of them ` +
      inner.map(({ name, calls }) => `${name} ${calls}`).join(", "),
  );
}

function tailCallsOf({ entries }: PlannedStage): number {
  let calls = 0;
  for (const { selected, function: name } of entries)
    calls += selected.program.info.programs.find((program) => program.name === name)?.tailCalls ?? 0;
  return calls;
}

function nameOf({ entries }: PlannedStage): string {
  return entries.map(({ selected }) => selected.program.name).join("+");
}

function hookOf({ config, hook }: Pick<PlanInput, "config" | "hook">): HookName {
  return hook ?? (config.hook === "clsact" ? "clsact" : "tcx");
}

function refuseUnsupported(input: PlanInput): void {
  const { selected, host } = input;
  if (hookOf(input) === "clsact") requireTcxAtHost(selected, "the chain hangs on clsact");
  if (!host && needsHostEnd(selected)) throw noHostEnd(selected, "nobody has looked for it");
}
