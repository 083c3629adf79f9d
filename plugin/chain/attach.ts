// SPDX-License-Identifier: Apache-2.0
/**
 * Carries out a plan. What a crash leaves behind, step by step:
 *
 *  1. what an earlier ADD of the same attachment left is removed
 *  2. the folder is made. It claims the attachment: a DEL that comes from now on takes it away, and this ADD fails at its
 *     next pin instead of leaving a chain that nobody would remove.
 *     A crash leaves an empty folder, whose name says whose it is.
 *  3. maps and stages are loaded; the verifier has its say. All of it lives in descriptors, but maps of scope node, which are
 *     pinned at once: a crash leaves no more than those and 2.
 *  4. the generation is pinned, then the record with the program ids. A crash leaves pins that no packet runs through.
 *  5. links are attached, and pinned last. A link without a pin dies with this process.
 *
 * DEL, gc and another ADD remove each of these states by the folder's name. An error at any step takes back all earlier
 * ones, in reverse, and is the one that is reported.
 */

import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, KernelError, type KernelPort, type Stage } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { detach, removeShared } from "./detach.ts";
import { ensureDirectory } from "./folders.ts";
import { type Generation, loadGeneration, mapsToPin, pinGeneration } from "./generation.ts";
import { nodeMapsOf } from "./node-maps.ts";
import { type AttachmentPins, pinsOf } from "./pins.ts";
import { type ChainPlan, plannedDirections } from "./plan.ts";
import {
  type AttachmentRecord,
  type RecordedChain,
  type RecordedStage,
  recordedNamespace,
  recordFormat,
  writeRecord,
} from "./record.ts";
import { Attempts, Handles, Undo } from "./undo.ts";

/** How often the folders above are made again when a DEL beside us has removed them as empty. */
const rounds = 10;

/**
 * Attaches what a plan says. A plan with no program and nothing missing leaves nothing.
 *
 * @param report is told what failed while taking back; the error that started it is thrown.
 * @throws EntryFailed for a program that does not load; KernelError; RemoraError unknownContainer where a DEL of this
 *   attachment came in between, tryAgainLater where another ADD of it did.
 */
export function attach(kernel: KernelPort, plan: ChainPlan, report: (error: unknown) => void = () => {}): void {
  detach(kernel, plan.bpffs, plan.id);
  if (plannedDirections(plan).length === 0 && plan.degraded.length === 0) return;
  const pins = pinsOf(plan.bpffs, plan.id);
  const undo = new Undo();
  using handles = new Handles(kernel);
  try {
    claim(kernel, pins, undo);
    const generation = loadGeneration(kernel, plan, handles);
    pinGeneration(kernel, plan, generation, pins, undo);
    writeRecord(kernel, pins, recordOf(plan, generation), undo);
    for (const direction of directions) link(kernel, plan, generation, direction, pins, handles, undo);
  } catch (error) {
    undo.unwind(report);
    throw deletedMeanwhile(error, plan) ?? error;
  }
}

/** Makes the attachment's folder and what is missing above it. */
function claim(kernel: KernelPort, pins: AttachmentPins, undo: Undo): void {
  undo.push(() => {
    const attempts = new Attempts();
    removeShared(kernel, pins, attempts);
    attempts.finish();
  });
  for (let round = 1; ; round++) {
    try {
      ensureDirectory(kernel, pins.root);
      ensureDirectory(kernel, pins.network);
      kernel.makeDirectory(pins.directory);
      break;
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      if (error.code === "ENOENT" && round < rounds) continue;
      if (error.code !== "EEXIST") throw error;
      throw new RemoraError(code.tryAgainLater, `another ADD of the same attachment is at work: ${pins.directory}`, {
        cause: error,
      });
    }
  }
  undo.push(() => kernel.removeDirectory(pins.directory));
}

function link(
  kernel: KernelPort,
  plan: ChainPlan,
  generation: Generation,
  direction: Direction,
  pins: AttachmentPins,
  handles: Handles,
  undo: Undo,
): void {
  const first = generation[direction]?.stages[0];
  if (!first) return;
  const { netns, interface: device } = plan;
  const fd = handles.own(kernel.attachTcx({ program: first.program, netns, ifindex: device.ifindex, direction }));
  undo.push(() => kernel.detachLink(fd));
  const path = pins.link(direction);
  kernel.pin(fd, path);
  undo.push(() => kernel.removePin(path));
}

/** Our own folder has vanished below us: only a DEL, or a collector told that the container is dead, does that. */
function deletedMeanwhile(error: unknown, { id }: ChainPlan): RemoraError | undefined {
  const vanished =
    error instanceof KernelError && error.code === "ENOENT" && ["pin", "makeDirectory"].includes(error.operation);
  if (!vanished) return undefined;
  return new RemoraError(
    code.unknownContainer,
    `container ${id.containerId} was deleted while its chain on ${id.ifname} was being made`,
    { cause: error },
  );
}

function recordOf(plan: ChainPlan, generation: Generation): AttachmentRecord {
  const chains: AttachmentRecord["chains"] = {};
  for (const direction of plannedDirections(plan)) chains[direction] = recordedChain(plan, generation, direction);
  return {
    format: recordFormat,
    id: plan.id,
    pod: plan.pod,
    netns: plan.netns,
    namespace: recordedNamespace(plan.interface.namespace),
    ifindex: plan.interface.ifindex,
    hook: plan.hook,
    generation: plan.generation,
    failurePolicy: plan.failurePolicy,
    degraded: plan.degraded,
    chains,
  };
}

function recordedMaps(stage: Stage, program: CatalogProgram): RecordedStage["maps"] {
  const shared = nodeMapsOf(program);
  return [
    ...mapsToPin(stage, program).map(({ name, id }) => ({ name, id, scope: "pod" as const })),
    ...stage.maps
      .filter(({ name }) => shared.includes(name))
      .map(({ name, id }) => ({ name, id, scope: "node" as const })),
  ];
}

function recordedChain(plan: ChainPlan, generation: Generation, direction: Direction): RecordedChain {
  const loaded = generation[direction];
  if (!loaded) throw new Error(`the ${direction} chain was planned and not loaded`);
  return {
    chainId: loaded.chainId,
    countersId: loaded.countersId,
    stages: loaded.stages.map((stage, position) => {
      const planned = plan.stages[direction][position];
      if (!planned) throw new Error(`position ${position} was loaded and not planned`);
      return {
        programId: stage.programId,
        countHead: planned.countHead,
        proceedOn: planned.proceedOn,
        failurePolicy: planned.failurePolicy,
        entries: planned.entries.map(({ selected, function: name }) => ({
          program: selected.program.name,
          function: name,
          at: selected.at,
          version: selected.program.version,
          sha256: selected.program.sha256,
          priority: selected.priority,
          params: selected.shown,
          nodeWide: selected.nodeWide,
        })),
        maps: recordedMaps(stage, planned.entries[0].selected.program),
      };
    }),
  };
}
