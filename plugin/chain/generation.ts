// SPDX-License-Identifier: Apache-2.0
/**
 * One generation of an attachment's chains: loaded as a whole while nothing in the kernel points to it yet, then pinned.
 * Until it is pinned it lives in this process' descriptors alone: a crash leaves nothing of it.
 */

import { code, RemoraError } from "../errors.ts";
import type { KernelPort, Stage, StageRequest } from "../kernel/port.ts";
import { type Direction, type Fd, KernelError } from "../kernel/port.ts";
import type { CatalogProgram, Selected } from "../model.ts";
import { u32 } from "./bytes.ts";
import { baseLength } from "./counters.ts";
import { createChainMap, createCounters } from "./maps.ts";
import { blameNodeMaps, nodeMapsOf, openNodeMaps, pinNodeMaps } from "./node-maps.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, directionAt } from "./places.ts";
import { type ChainPlan, type PlannedStage, plannedPlaces } from "./plan.ts";
import type { Handles, Undo } from "./undo.ts";
import { unneededMaps } from "./unneeded.ts";

export interface LoadedChain {
  chain: Fd;
  chainId: number;
  counters: Fd;
  countersId: number;
  /** What earlier generations have counted; the first generation needs none. */
  base: { fd: Fd; id: number } | undefined;
  stages: Stage[];
}
export type Generation = Partial<Record<ChainPlace, LoadedChain>>;

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

/** Maps of the generation before that a stage goes on with, by place. */
export type Carried = (place: ChainPlace, position: number) => StageRequest["reuse"];

/**
 * Creates the maps of each place, loads its stages and puts them into their slots.
 *
 * @throws EntryFailed for a program that does not load; KernelError.
 */
export function loadGeneration(
  kernel: KernelPort,
  plan: ChainPlan,
  handles: Handles,
  carried: Carried = () => [],
): Generation {
  const generation: Generation = {};
  for (const place of plannedPlaces(plan)) {
    const stages = plan.stages[place];
    const chain = createChainMap(kernel, place, stages.length, handles);
    const counters = createCounters(kernel, stages.length, handles);
    const loaded: LoadedChain = {
      chain,
      chainId: kernel.mapInfo(chain).id,
      counters,
      countersId: kernel.mapInfo(counters).id,
      base: plan.generation > 1 ? createBase(kernel, stages.length, handles) : undefined,
      stages: new Array(stages.length),
    };
    generation[place] = loaded;
    for (const [position, stage] of loadOrder(stages)) {
      const slot = { place, position, stage, length: stages.length };
      const one = loadStage(kernel, plan, slot, generation, handles, carried(place, position));
      loaded.stages[position] = one;
      kernel.updateMap(chain, u32(position), u32(one.program));
    }
  }
  return generation;
}

/**
 * The last position first, so that each finds the slot it calls already filled, and the kernel has no jump to patch in a
 * program that is loaded. But before all others those that want to be told of endings, whose maps the others need.
 */
function loadOrder(stages: PlannedStage[]): [position: number, stage: PlannedStage][] {
  const all = [...stages.entries()];
  const isTold = ([, stage]: (typeof all)[number]): boolean => endingMapsOf(stage.entries[0].selected).length > 0;
  return [...all.filter(isTold), ...all.filter((one) => !isTold(one)).reverse()];
}

/** The maps of a program in which stages behind it tell how a packet ended. */
export function endingMapsOf(selected: Selected): string[] {
  const without = unneededMaps(selected);
  return selected.program.endingMaps.filter((name) => !without.includes(name));
}

/** Those of the programs before a position. */
function endingsAt(plan: ChainPlan, { stages }: LoadedChain, place: ChainPlace, position: number): Fd[] {
  return plan.stages[place].slice(0, position).flatMap(({ entries: [{ selected }] }, at) => {
    const names = endingMapsOf(selected);
    return stages[at]?.maps.filter(({ name }) => names.includes(name)).map(({ fd }) => fd) ?? [];
  });
}

function createBase(kernel: KernelPort, length: number, handles: Handles): { fd: Fd; id: number } {
  const fd = handles.own(
    kernel.createMap({ type: "array", name: "remora_base", keySize: 4, valueSize: baseLength, maxEntries: length }),
  );
  return { fd, id: kernel.mapInfo(fd).id };
}

function loadStage(
  kernel: KernelPort,
  plan: ChainPlan,
  slot: { place: ChainPlace; position: number; stage: PlannedStage; length: number },
  generation: Generation,
  handles: Handles,
  carried: StageRequest["reuse"],
): Stage {
  const { place, position, stage, length } = slot;
  const own = generation[place] as LoadedChain;
  const [{ selected, function: name }] = stage.entries;
  const without = unneededMaps(selected);
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
    endings: endingsAt(plan, own, place, position),
    without,
  };
  const shared = sharedMaps(stage, generation);
  const others = [...shared, ...carried.filter(({ name }) => !shared.some((map) => map.name === name))].filter(
    ({ name }) => !without.includes(name),
  );
  for (let round = 1; ; round++) {
    const ofNode = openNodeMaps(kernel, plan.bpffs, selected.program, without, handles);
    const reuse = [...ofNode, ...others.filter((map) => !ofNode.some(({ name }) => name === map.name))];
    let loaded: Stage;
    try {
      loaded = kernel.loadStage({ ...request, reuse });
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      throw new EntryFailed(selected, directionAt(place), name, blameNodeMaps(kernel, selected.program, ofNode, error));
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

/** Everything but the parameters, which each place has on its own (they are equal, and frozen). */
function sharedMaps({ sharesMapsWith }: PlannedStage, generation: Generation): StageRequest["reuse"] {
  if (!sharesMapsWith) return [];
  const { place, position } = sharesMapsWith;
  const maps = generation[place]?.stages[position]?.maps ?? [];
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

/** Makes a generation's folder in its attachment's. A crash leaves it empty or half full: see settle.ts. */
export function makeGenerationFolder(kernel: KernelPort, plan: ChainPlan, pins: AttachmentPins, undo: Undo): void {
  const path = pins.generation(plan.generation);
  kernel.makeDirectory(path);
  undo.push(() => kernel.removeDirectory(path));
}

/** Pins a generation in its folder. */
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
  for (const place of chainPlaces) {
    const loaded = generation[place];
    if (!loaded) continue;
    const paths = pins.direction(plan.generation, place);
    directory(paths.directory);
    pin(loaded.chain, paths.chain);
    pin(loaded.counters, paths.counters);
    if (loaded.base) pin(loaded.base.fd, paths.base);
    const kept = loaded.stages.map((stage, position) =>
      mapsToPin(stage, plan.stages[place][position]?.entries[0].selected.program),
    );
    if (kept.some((maps) => maps.length > 0)) directory(paths.maps);
    kept.forEach((maps, position) => {
      if (maps.length > 0) directory(paths.mapsOf(position));
      for (const { fd, name } of maps) pin(fd, paths.map(position, name));
    });
  }
}
