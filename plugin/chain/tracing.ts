// SPDX-License-Identifier: Apache-2.0
/** Begins and ends a trace of an attachment (see trace.ts): loads the stages that report, and switches the links. */

import { code, RemoraError } from "../errors.ts";
import {
  type Direction,
  type Fd,
  KernelError,
  type KernelPort,
  type Stage,
  type StageRequest,
  type StageTrace,
  traceLayout,
} from "../kernel/port.ts";
import type { Selected } from "../model.ts";
import { u32 } from "./bytes.ts";
import { EntryFailed, endingMapsOf } from "./generation.ts";
import { type Hook, hooks } from "./hook.ts";
import { busy, Lock, lock, lockDeadlines } from "./lock.ts";
import { createChainMap } from "./maps.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, directionAt } from "./places.ts";
import { type AttachmentRecord, type RecordedChain, type RecordedStage, readRecord } from "./record.ts";
import { point, settle } from "./settle.ts";
import { removeTrace, traceIsActive } from "./trace.ts";
import { Handles, Undo } from "./undo.ts";
import { unneededMaps } from "./unneeded.ts";

export interface TraceRequest {
  directions: Direction[];
  /** One packet in so many. */
  sample: number;
  /** Bytes of each packet, at least 1. */
  bytes: number;
  /** Of the ring buffer: a power of two, at least 4096. */
  size: number;
}

/** A trace at work. Events are read from `events`; their tag is the chain's index in `chainPlaces`. */
export interface LiveTrace {
  /** The attachment as it was when the trace began. */
  record: AttachmentRecord;
  events: Fd;
  /** False once the chain was changed or removed: nothing more will be told. */
  active(): boolean;
  /** How many events were lost because nobody took the earlier ones in time. */
  lost(): number;
  /** Gives the links their chain again. @throws KernelError; what is left then is taken away by whoever comes next. */
  end(): Promise<void>;
}

/**
 * @param again selects the program of a stage once more, with the same parameters; it must be the same object.
 * @throws RemoraError tryAgainLater where another traces or changes it, unknownContainer where it is gone; KernelError.
 */
export async function startTrace(
  kernel: KernelPort,
  pins: AttachmentPins,
  again: (stage: RecordedStage) => Selected,
  request: TraceRequest,
): Promise<LiveTrace> {
  using _ = await lockAttachment(kernel, pins);
  const handles = new Handles(kernel);
  const undo = new Undo();
  undo.push(() => handles[Symbol.dispose]());
  try {
    settle(kernel, pins);
    const record = readUntraced(kernel, pins);
    const folder = claimFolder(kernel, pins, record, { handles, undo });
    const ring = createRing(kernel, request, handles);
    const heads = loadHeads(kernel, pins, record, again, { request, ring, handles });
    const hook: Hook = hooks[record.hook];
    // Only what is whole is switched to.
    for (const { place, head } of heads) hook.update(kernel, hook.pin(pins, place), head);
    return {
      record,
      events: ring.events,
      active: () => kernel.names(pins.trace.directory, folder) && traceIsActive(kernel, pins),
      lost: () => readLost(kernel, ring.state, request.bytes),
      end: () => endTrace(kernel, pins, folder, handles),
    };
  } catch (error) {
    undo.unwind(() => {});
    throw error;
  }
}

/** @throws RemoraError tryAgainLater where another traces it, unknownContainer where it is gone. */
function readUntraced(kernel: KernelPort, pins: AttachmentPins): AttachmentRecord {
  const record = readRecord(kernel, pins);
  if (record === undefined) throw new RemoraError(code.unknownContainer, `${pins.directory} is not attached any more`);
  if (kernel.modified(pins.trace.directory) === undefined) return record;
  throw new RemoraError(code.tryAgainLater, `somebody else is tracing ${record.id.containerId} ${record.id.ifname}`);
}

/** Makes the trace's folder, and locks it for as long as this process lives: who finds it unlocked may take the trace away. */
function claimFolder(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  { handles, undo }: { handles: Handles; undo: Undo },
): Fd {
  kernel.makeDirectory(pins.trace.directory);
  undo.push(() => removeTrace(kernel, pins, () => point(kernel, pins, record)));
  const folder = kernel.tryLock(pins.trace.directory);
  if (folder === undefined) throw new RemoraError(code.tryAgainLater, `${pins.trace.directory} is locked`);
  return handles.own(folder);
}

/** Loads the chains that report. @returns for each place that is asked for and has a chain, the program that its link is to run. */
function loadHeads(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  again: (stage: RecordedStage) => Selected,
  { request, ring, handles }: { request: TraceRequest; ring: Ring; handles: Handles },
): { place: ChainPlace; head: Fd }[] {
  const places = chainPlaces.filter((place) => request.directions.includes(directionAt(place)));
  return places.flatMap((place) => {
    const chain = record.chains[place];
    if (chain === undefined) return [];
    const trace = { ...ring, sample: request.sample, bytes: request.bytes, tag: chainPlaces.indexOf(place) };
    return [{ place, head: loadChain(kernel, pins, record, place, chain, again, trace, handles) }];
  });
}

/** @param folder the trace's own: what another has made there since is not touched. */
async function endTrace(kernel: KernelPort, pins: AttachmentPins, folder: Fd, handles: Handles): Promise<void> {
  try {
    using _ = await lockAttachment(kernel, pins);
    const now = readRecord(kernel, pins);
    if (now && kernel.names(pins.trace.directory, folder)) removeTrace(kernel, pins, () => point(kernel, pins, now));
  } catch (error) {
    // A DEL has taken it all away.
    if (!(error instanceof RemoraError && error.code === code.unknownContainer)) throw error;
  } finally {
    handles[Symbol.dispose]();
  }
}

async function lockAttachment(kernel: KernelPort, pins: AttachmentPins): Promise<Lock> {
  const got = await lock(kernel, pins, lockDeadlines.change);
  if (got instanceof Lock) return got;
  if (got === "busy") throw busy(pins, lockDeadlines.change);
  throw new RemoraError(code.unknownContainer, `${pins.directory} is not there any more`);
}

/** The ring buffer, and where stages keep what they know of a packet. */
type Ring = Pick<StageTrace, "events" | "state">;

function createRing(kernel: KernelPort, { bytes, size }: TraceRequest, handles: Handles): Ring {
  const none = { keySize: 0, valueSize: 0 };
  return {
    events: handles.own(kernel.createMap({ type: "ringbuf", name: "remora_events", ...none, maxEntries: size })),
    state: handles.own(
      kernel.createMap({
        type: "percpu_array",
        name: "remora_trace",
        keySize: 4,
        valueSize: stateLength(bytes),
        maxEntries: 1,
      }),
    ),
  };
}

function stateLength(bytes: number): number {
  return Math.ceil((traceLayout.event + traceLayout.header + bytes) / 8) * 8;
}

function readLost(kernel: KernelPort, state: Fd, bytes: number): number {
  const value = kernel.lookupMap(state, u32(0));
  let lost = 0n;
  for (let at = traceLayout.lost; value && at < value.length; at += stateLength(bytes))
    lost += value.readBigUInt64LE(at);
  return Number(lost);
}

/** Loads the stages of one place and pins their array. @returns the first stage's program, which is `kept`. */
function loadChain(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
  { stages }: RecordedChain,
  again: (stage: RecordedStage) => Selected,
  trace: StageTrace,
  kept: Handles,
): Fd {
  using handles = new Handles(kernel);
  const chain = createChainMap(kernel, place, stages.length, handles);
  const counters = handles.own(kernel.openPin(pins.direction(record.generation, place).counters).fd);
  let head: Fd | undefined;
  // The last position first: each finds the slot that it calls filled.
  for (const [position, stage] of [...stages.entries()].reverse()) {
    const selected = again(stage);
    const loaded = loadTraced(kernel, selected, place, {
      object: selected.program.object,
      name: selected.program.name,
      entries: stage.entries.map((entry) => ({ function: entry.function, parameters: selected.parameters })),
      position,
      length: stages.length,
      proceedOn: stage.proceedOn,
      failurePolicy: stage.failurePolicy,
      chain,
      counters,
      countHead: stage.countHead,
      endings: stages.slice(0, position).flatMap((before) => endingsOf(kernel, before, again(before), handles)),
      reuse: sameMaps(kernel, stage, selected, handles),
      without: unneededMaps(selected),
      trace,
    });
    (position === 0 ? kept : handles).own(loaded.program);
    for (const { fd } of loaded.maps) handles.own(fd);
    kernel.updateMap(chain, u32(position), u32(loaded.program));
    if (position === 0) head = loaded.program;
  }
  kernel.makeDirectory(pins.trace.folder(place));
  kernel.pin(chain, pins.trace.chain(place));
  if (head === undefined) throw new Error(`the ${place} chain has no stages`);
  return head;
}

/** @throws EntryFailed, as where a chain is loaded. */
function loadTraced(kernel: KernelPort, selected: Selected, place: ChainPlace, request: StageRequest): Stage {
  try {
    return kernel.loadStage(request);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    throw new EntryFailed(selected, directionAt(place), request.entries.map((entry) => entry.function).join(), error);
  }
}

/** All of the program's maps but its parameters, which are constants, equal, and frozen with the load. */
function sameMaps(
  kernel: KernelPort,
  stage: RecordedStage,
  { program }: Selected,
  handles: Handles,
): StageRequest["reuse"] {
  const variable = program.info.maps.filter(({ name, internal }) => !internal || /\.(data|bss)/.test(name));
  return stage.maps
    .filter(({ name }) => variable.some((map) => map.name === name))
    .map(({ name, id }) => ({ name, fd: handles.own(kernel.openMapById(id)) }));
}

/** The maps in which stages behind this one tell how a packet ended. */
function endingsOf(kernel: KernelPort, stage: RecordedStage, selected: Selected, handles: Handles): Fd[] {
  const names = endingMapsOf(selected);
  return stage.maps.filter(({ name }) => names.includes(name)).map(({ id }) => handles.own(kernel.openMapById(id)));
}
