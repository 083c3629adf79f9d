// SPDX-License-Identifier: Apache-2.0
/**
 * One generation of an attachment's chains: loaded as a whole while nothing in the kernel points to it yet, then pinned.
 * Until it is pinned it lives in this process' descriptors alone: a crash leaves nothing of it.
 */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort, Stage, StageRequest } from "../kernel/port.ts";
import { counterLayout, type Direction, directions, type Fd, KernelError } from "../kernel/port.ts";
import type { CatalogProgram, Selected } from "../model.ts";
import { nodeMapsOf, openNodeMaps, pinNodeMaps } from "./node-maps.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlan, type PlannedStage, plannedDirections } from "./plan.ts";
import type { Handles, Undo } from "./undo.ts";

export interface LoadedChain {
  chain: Fd;
  chainId: number;
  counters: Fd;
  countersId: number;
  stages: Stage[];
}
export type Generation = Partial<Record<Direction, LoadedChain>>;

/** A program of the chain that the loader or the verifier refused; `cause` is what they said. */
export class EntryFailed extends Error {
  override readonly name = "EntryFailed";
  override readonly cause: KernelError;
  readonly selected: Selected;
  readonly direction: Direction;
  readonly function: string;

  constructor(selected: Selected, direction: Direction, name: string, cause: KernelError) {
    super(`${selected.program.name} (${name}, ${direction}): ${cause.message}`);
    this.cause = cause;
    this.selected = selected;
    this.direction = direction;
    this.function = name;
  }
}

/**
 * Creates the maps of each direction, loads its stages and puts them into their slots.
 *
 * @throws EntryFailed for a program that does not load; KernelError.
 */
export function loadGeneration(kernel: KernelPort, plan: ChainPlan, handles: Handles): Generation {
  const generation: Generation = {};
  for (const direction of plannedDirections(plan)) {
    const stages = plan.stages[direction];
    const chain = handles.own(
      kernel.createMap({
        type: "prog_array",
        name: `remora_${direction}`,
        keySize: 4,
        valueSize: 4,
        maxEntries: stages.length,
      }),
    );
    const counters = handles.own(
      kernel.createMap({
        type: "percpu_array",
        name: "remora_counters",
        keySize: 4,
        valueSize: counterLayout.words * 8,
        maxEntries: stages.length,
      }),
    );
    const loaded: LoadedChain = {
      chain,
      chainId: kernel.mapInfo(chain).id,
      counters,
      countersId: kernel.mapInfo(counters).id,
      stages: [],
    };
    generation[direction] = loaded;
    stages.forEach((stage, position) => {
      loaded.stages.push(
        loadStage(kernel, plan, { direction, position, stage, length: stages.length }, generation, handles),
      );
    });
    loaded.stages.forEach(({ program }, position) => {
      kernel.updateMap(chain, u32(position), u32(program));
    });
  }
  return generation;
}

function loadStage(
  kernel: KernelPort,
  plan: ChainPlan,
  place: { direction: Direction; position: number; stage: PlannedStage; length: number },
  generation: Generation,
  handles: Handles,
): Stage {
  const { direction, position, stage, length } = place;
  const own = generation[direction] as LoadedChain;
  const [{ selected, function: name }] = stage.entries;
  const request: Omit<StageRequest, "reuse"> = {
    object: selected.program.object,
    name: selected.program.name,
    entries: stage.entries.map((entry) => ({ function: entry.function, parameters: entry.selected.parameters })),
    position,
    length,
    proceedOn: stage.proceedOn,
    failurePolicy: stage.failurePolicy,
    chain: own.chain,
    counters: own.counters,
    countHead: stage.countHead,
  };
  const shared = sharedMaps(stage, generation);
  for (let round = 1; ; round++) {
    const ofNode = openNodeMaps(kernel, plan.bpffs, selected.program, handles);
    const reuse = [...ofNode, ...shared.filter((map) => !ofNode.some(({ name }) => name === map.name))];
    let loaded: Stage;
    try {
      loaded = kernel.loadStage({ ...request, reuse });
    } catch (error) {
      if (error instanceof KernelError) throw new EntryFailed(selected, direction, name, error);
      throw error;
    }
    handles.own(loaded.program);
    for (const { fd } of loaded.maps) handles.own(fd);
    if (pinNodeMaps(kernel, plan.bpffs, selected.program, loaded, ofNode)) return loaded;
    if (round === rounds)
      throw new RemoraError(code.tryAgainLater, `the maps that pods share of ${selected.program.name} keep changing`);
  }
}

/** How often a stage is loaded again because another ADD was faster to pin a map that pods share. */
const rounds = 10;

/** Everything but the parameters, which each direction has on its own (they are equal, and frozen). */
function sharedMaps({ sharesMapsWith }: PlannedStage, generation: Generation): StageRequest["reuse"] {
  if (!sharesMapsWith) return [];
  const { direction, position } = sharesMapsWith;
  const maps = generation[direction]?.stages[position]?.maps ?? [];
  return maps
    .filter(({ name, internal }) => !(internal && name.includes(".rodata")))
    .map(({ name, fd }) => ({ name, fd }));
}

/**
 * The maps of a stage that must have a pin: those that asked for one, and PROG_ARRAYs of the program's own, which the
 * kernel would empty with the loader's last descriptor. Maps of scope node have theirs already.
 */
export function mapsToPin(stage: Stage, program: CatalogProgram | undefined): Stage["maps"] {
  const ofNode = program ? nodeMapsOf(program) : [];
  return stage.maps.filter(({ name, pinned, type }) => (pinned || type === "prog_array") && !ofNode.includes(name));
}

/** Pins a generation below its attachment's folder, which is there. */
export function pinGeneration(
  kernel: KernelPort,
  plan: ChainPlan,
  generation: Generation,
  pins: AttachmentPins,
  undo: Undo,
): void {
  const directory = (path: string): void => {
    kernel.makeDirectory(path);
    undo.push(() => kernel.removeDirectory(path));
  };
  const pin = (fd: Fd, path: string): void => {
    kernel.pin(fd, path);
    undo.push(() => kernel.removePin(path));
  };
  if (Object.keys(generation).length > 0) directory(pins.generation(plan.generation));
  for (const direction of directions) {
    const loaded = generation[direction];
    if (!loaded) continue;
    const paths = pins.direction(plan.generation, direction);
    directory(paths.directory);
    pin(loaded.chain, paths.chain);
    pin(loaded.counters, paths.counters);
    const kept = loaded.stages.map((stage, position) =>
      mapsToPin(stage, plan.stages[direction][position]?.entries[0].selected.program),
    );
    if (kept.some((maps) => maps.length > 0)) directory(paths.maps);
    kept.forEach((maps, position) => {
      if (maps.length > 0) directory(paths.mapsOf(position));
      for (const { fd, name } of maps) pin(fd, paths.map(position, name));
    });
  }
}

/** A u32 key or value; both machines that Remora runs on are little-endian. */
export function u32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number);
  return bytes;
}
