// SPDX-License-Identifier: Apache-2.0
/** Finds what flow-log and dns-log keep for a pod: a log is one such program in the chains of one attachment. */

import { chainPlaces } from "../chain/places.ts";
import { type AttachmentRecord, readRecord } from "../chain/record.ts";
import { code, RemoraError } from "../errors.ts";
import type { ReadOther } from "../flows/flow.ts";
import { directions, type Fd, KernelError, type KernelPort } from "../kernel/port.ts";
import type { Recorded } from "./records.ts";
import { ownerOf } from "./selector.ts";

export interface LogKind<Item> {
  program: string;
  /** The map that holds its items. */
  map: string;
  /** Makes a reader of the map, which may look into the program's others. */
  reader(map: Fd, other: ReadOther): () => Item[];
}

export class Log<Item> implements Disposable {
  readonly recorded: Recorded;
  readonly #kernel: KernelPort;
  readonly #kind: LogKind<Item>;
  #open: { id: number; fd: Fd; read: () => Item[] };

  /** @throws RemoraError unsupported where the map is not what it should be; KernelError. */
  constructor(kernel: KernelPort, recorded: Recorded, kind: LogKind<Item>, id: number) {
    this.recorded = recorded;
    this.#kernel = kernel;
    this.#kind = kind;
    this.#open = this.#opened(id);
  }

  /** What the log holds now. What its program had written is there also when that was taken away since. */
  read(): Item[] {
    return this.#open.read();
  }

  /** What became of the log. `moved`: a change of the chain gave its program another map, which `move` goes on with. */
  state(): "here" | "moved" | "gone" {
    const id = this.#current();
    return id === undefined ? "gone" : id === this.#open.id ? "here" : "moved";
  }

  move(): void {
    const id = this.#current();
    if (id === undefined || id === this.#open.id) return;
    const before = this.#open;
    this.#open = this.#opened(id);
    this.#kernel.close(before.fd);
  }

  /** Reads another map of the same program. Undefined where it has none of that name, and where it went with the log. */
  readOther<T>(map: string, read: (map: Fd) => T): T | undefined {
    const id = this.#current(map);
    const fd = id === undefined ? undefined : unlessGone(() => this.#kernel.openMapById(id));
    if (fd === undefined) return undefined;
    try {
      return read(fd);
    } finally {
      this.#kernel.close(fd);
    }
  }

  [Symbol.dispose](): void {
    this.#kernel.close(this.#open.fd);
  }

  /** The id of a map of the log's program today. */
  #current(map = this.#kind.map): number | undefined {
    const record = unlessGone(() => readRecord(this.#kernel, this.recorded.pins));
    return record && mapOf(record, this.#kind.program, map);
  }

  #opened(id: number): { id: number; fd: Fd; read: () => Item[] } {
    const fd = this.#kernel.openMapById(id);
    try {
      return { id, fd, read: this.#kind.reader(fd, (name, read) => this.readOther(name, read)) };
    } catch (error) {
      this.#kernel.close(fd);
      throw error;
    }
  }
}

/** Undefined for what goes at this moment. */
function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Logs that are closed together. */
export class Logs<Item> implements Disposable {
  readonly all: Log<Item>[] = [];

  /**
   * @throws RemoraError unknownProgram where none of the pod's chains has the program, unsupported where it is another of that
   * name; KernelError.
   */
  constructor(kernel: KernelPort, recorded: Recorded[], kind: LogKind<Item>) {
    try {
      for (const one of recorded) {
        const id = mapOf(one.record, kind.program, kind.map);
        if (id !== undefined) this.all.push(new Log(kernel, one, kind, id));
      }
      if (this.all.length === 0) throw missing(recorded, kind);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const log of this.all.splice(0)) log[Symbol.dispose]();
  }
}

/** The id of a program's map. Both directions share it; of several such programs it is the first one's. */
function mapOf({ chains }: AttachmentRecord, program: string, name: string): number | undefined {
  const stages = chainPlaces.flatMap((place) => chains[place]?.stages ?? []);
  return stages
    .filter(({ entries }) => entries.some((entry) => entry.program === program))
    .flatMap(({ maps }) => maps)
    .find((map) => map.name === name)?.id;
}

function missing(recorded: Recorded[], { program, map }: LogKind<unknown>): RemoraError {
  const [one] = recorded;
  if (one === undefined) return new RemoraError(code.unknownContainer, "the pod went away meanwhile");
  const there = new Set(
    recorded.flatMap(({ status }) => directions.flatMap((each) => status[each].map((entry) => entry.program))),
  );
  return new RemoraError(
    code.unknownProgram,
    there.has(program)
      ? `the program ${program} of ${ownerOf(one.status)} has no map ${map}: it is another one of that name`
      : `${ownerOf(one.status)} has no ${program}; its programs are: ${[...there].join(", ") || "none"}. Add ${program} to its ` +
          "annotation remora.io/programs, or to the running pod with remora apply",
  );
}
