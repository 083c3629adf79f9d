// SPDX-License-Identifier: Apache-2.0
/**
 * What will be attached, decided before anything is touched: from the selected programs to the stages of each
 * direction. Pure: the same input gives the same plan, and what cannot stand is refused here, with the reason.
 */

import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, type InterfaceInfo, type ObjectProgram } from "../kernel/port.ts";
import type { AttachmentId, FailurePolicy, Missing, NodeConfig, PodIdentity, Selected } from "../model.ts";

/** Positions of one direction. */
export const longestChain = 32;
/** Linux' MAX_TAIL_CALL_CNT. Since 6.12 the chain's own calls and those inside its programs share it. */
export const tailCallBudget = 33;

export interface PlanInput {
  id: AttachmentId;
  /** The network namespace's path, as the runtime named it. */
  netns: string;
  interface: InterfaceInfo;
  pod: PodIdentity | null;
  config: Pick<NodeConfig, "bpffs" | "failurePolicy" | "hook" | "programDirs">;
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
  sharesMapsWith: { direction: Direction; position: number } | undefined;
}
export interface ChainPlan {
  id: AttachmentId;
  bpffs: string;
  netns: string;
  interface: InterfaceInfo;
  pod: PodIdentity | null;
  hook: "tcx";
  generation: number;
  failurePolicy: FailurePolicy;
  degraded: Missing[];
  /** Where the programs were looked up: the next change looks there again. */
  programDirs: string[];
  /** In the order of the chain, those of both directions together. */
  selected: Selected[];
  /** Empty where a direction has no program: it gets no chain. */
  stages: Record<Direction, PlannedStage[]>;
}

/**
 * @throws RemoraError chainTooLong where a direction has more than 32 programs, or more tail calls than one packet may
 *   make; unsupported for what is described but not built yet.
 */
export function plan(input: PlanInput): ChainPlan {
  refuseUnsupported(input);
  const stages = {
    ingress: stagesOf("ingress", input),
    egress: stagesOf("egress", input),
  };
  for (const direction of directions) {
    requireRoom(direction, stages[direction]);
    requireTailCalls(direction, stages[direction]);
  }
  shareMaps(stages);
  return {
    id: input.id,
    bpffs: input.config.bpffs,
    netns: input.netns,
    interface: input.interface,
    pod: input.pod,
    hook: "tcx",
    generation: input.generation ?? 1,
    failurePolicy: input.config.failurePolicy,
    degraded: input.missing,
    programDirs: input.config.programDirs,
    selected: input.selected,
    stages,
  };
}

/** The directions that get a chain. */
export function plannedDirections(plan: ChainPlan): Direction[] {
  return directions.filter((direction) => plan.stages[direction].length > 0);
}

/** What holds for a program that cannot be attached or run: its manifest's word, else the node's. */
export function policyOf(selected: Selected, config: Pick<NodeConfig, "failurePolicy">): FailurePolicy {
  return selected.program.failurePolicy ?? config.failurePolicy;
}

function stagesOf(direction: Direction, { selected, config }: PlanInput): PlannedStage[] {
  const stages: PlannedStage[] = [];
  let before: ObjectProgram | undefined;
  for (const one of selected) {
    if (!one.directions.includes(direction)) continue;
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
function shareMaps(stages: Record<Direction, PlannedStage[]>): void {
  for (const stage of stages.egress) {
    const [entry] = stage.entries;
    const position = stages.ingress.findIndex(({ entries: [other] }) => other.selected === entry.selected);
    const other = stages.ingress[position];
    if (other && other.entries[0].function !== entry.function)
      stage.sharesMapsWith = { direction: "ingress", position };
  }
}

function requireRoom(direction: Direction, stages: PlannedStage[]): void {
  if (stages.length <= longestChain) return;
  const beyond = stages.slice(longestChain).map(nameOf);
  throw new RemoraError(
    code.chainTooLong,
    `the ${direction} chain would hold ${stages.length} programs, at most ${longestChain} fit: ` +
      `no room for ${beyond.join(", ")}`,
    { details: `the chain in its order: ${stages.map(nameOf).join(", ")}` },
  );
}

function requireTailCalls(direction: Direction, stages: PlannedStage[]): void {
  const own = stages.length - 1;
  const inner = stages
    .map((stage) => ({ name: nameOf(stage), calls: tailCallsOf(stage) }))
    .filter(({ calls }) => calls);
  const sum = inner.reduce((total, { calls }) => total + calls, own);
  if (inner.length === 0 || sum <= tailCallBudget) return;
  throw new RemoraError(
    code.chainTooLong,
    `the ${direction} chain could make ${sum} tail calls for one packet, the kernel allows ${tailCallBudget}: ` +
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

function refuseUnsupported({ config, selected }: PlanInput): void {
  if (config.hook === "clsact")
    throw new RemoraError(
      code.unsupported,
      'hook: "clsact" is not supported yet; "auto" and "tcx" attach by TCX links, which need Linux 6.6',
    );
  for (const { program, at, directions: wanted } of selected)
    if (at === "host" && wanted.includes("egress"))
      throw new RemoraError(
        code.unsupported,
        `${program.name}: at: host is not supported yet, so its egress side cannot stand on the host's end of the pair; ` +
          "it is not moved into the pod, where a process with CAP_NET_RAW could send past it. Use at: pod, or leave it out",
      );
}
