// SPDX-License-Identifier: Apache-2.0
/**
 * What an attachment says of itself: JSON in a frozen array map, pinned beside its chain. ADD and a change of the chain write
 * it as the journal first, `record_next`, when everything but the links is in place; it becomes the record when
 * the links are (see settle.ts). So a record tells of an attachment that is whole. Before, and while it is removed, the name
 * of the folder alone says whose it is; that is enough to remove it.
 */

import { code, RemoraError } from "../errors.ts";
import type { Direction, KernelPort, NamespaceIdentity } from "../kernel/port.ts";
import type {
  Assigned,
  AttachmentId,
  FailurePolicy,
  HookName,
  Missing,
  ParameterText,
  Place,
  PodIdentity,
} from "../model.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, directionAt, type HostEnd } from "./places.ts";
import { Handles, type Undo } from "./undo.ts";

/** Raised when a record's shape changes such that older code would misread it. */
const format = 2;

/** Decimal numbers as text: they have 64 bits. */
export interface RecordedNamespace {
  dev: string;
  ino: string;
  cookie: string;
}
export interface AttachmentRecord {
  format: typeof format;
  id: AttachmentId;
  pod: PodIdentity | null;
  /** The path as the runtime named it; the identity tells whether it still names the same namespace. */
  netns: string;
  namespace: RecordedNamespace;
  ifindex: number;
  /** Where a chain stands at the host's end. */
  host?: HostEnd;
  /** What the interface was given, as its ADD found it: the pod may have changed it since. Older records lack it. */
  assigned?: Assigned;
  hook: HookName;
  generation: number;
  failurePolicy: FailurePolicy;
  degraded: Missing[];
  programDirs: string[];
  /** The generation before this one, for as long as it is still there: how its counters are read. */
  previous?: { generation: number; countHead: Partial<Record<ChainPlace, boolean[]>> };
  /** Only of places that have a chain. */
  chains: Partial<Record<ChainPlace, RecordedChain>>;
}
/** Ids are the kernel's, and are not used again while it runs. */
export interface RecordedChain {
  chainId: number;
  countersId: number;
  /** Of the map with what earlier generations have counted; the first generation has none. */
  baseId?: number;
  stages: RecordedStage[];
}
export interface RecordedStage {
  programId: number;
  countHead: boolean;
  proceedOn: number[];
  failurePolicy: FailurePolicy;
  entries: RecordedEntry[];
  /** Every map that the stage uses, but those of the chain itself. */
  maps: RecordedMap[];
  /** The position in the generation before, where this program stood there already: its counts go on. */
  continues?: number;
}
export interface RecordedMap {
  name: string;
  id: number;
  scope: "pod" | "node";
  /** Below this position, or for all pods of the node. */
  pinned: boolean;
  /** What the object says of it, as far as another object must say the same to use it: see carry.ts. */
  definition: string;
}
export interface RecordedEntry {
  /** Which of the attachment's selections this is, from 0: the same in all places. */
  selection: number;
  program: string;
  function: string;
  /** Where its egress side stands. */
  at: Place;
  version: string;
  sha256: string;
  priority: number;
  params: Record<string, ParameterText>;
  nodeWide: boolean;
}

export const recordFormat = format;

/** A namespace's identity as a record holds it. */
export function recordedNamespace({ dev, ino, cookie }: NamespaceIdentity): RecordedNamespace {
  return { dev: String(dev), ino: String(ino), cookie: String(cookie) };
}

/**
 * Whether a recorded namespace is the one that was found somewhere. Its number is given to another as soon as it is gone, so
 * the cookie decides, which is never used again. (Before Linux 5.14 there is none: both are 0.)
 */
export function isSameNamespace(recorded: RecordedNamespace, found: NamespaceIdentity): boolean {
  const { dev, ino, cookie } = recordedNamespace(found);
  return dev === recorded.dev && ino === recorded.ino && cookie === recorded.cookie;
}

/** For people: the number is what `ip netns` and `lsns` know it by. */
export function wordsForNamespace({ ino, cookie }: RecordedNamespace): string {
  return `${ino} (cookie ${cookie})`;
}

/** What was selected for an attachment: its entries of all places as one. */
export type RecordedSelection = Omit<RecordedEntry, "function" | "selection"> & { directions: Direction[] };

/** The selections of an attachment, by their number. */
export function selectionsOf({ chains }: AttachmentRecord): RecordedSelection[] {
  const selections: RecordedSelection[] = [];
  for (const place of chainPlaces)
    for (const { entries } of chains[place]?.stages ?? [])
      for (const { selection, function: _, ...rest } of entries) {
        const known = selections[selection];
        if (known) known.directions.push(directionAt(place));
        else selections[selection] = { ...rest, directions: [directionAt(place)] };
      }
  return selections.filter(Boolean);
}

/** Writes, freezes and pins a record. */
export function writeRecord(kernel: KernelPort, path: string, record: AttachmentRecord, undo: Undo): void {
  using handles = new Handles(kernel);
  const json = Buffer.from(JSON.stringify(record));
  const value = Buffer.alloc(Math.ceil(json.length / 8) * 8);
  json.copy(value);
  const map = handles.own(
    kernel.createMap({ type: "array", name: "remora_record", keySize: 4, valueSize: value.length, maxEntries: 1 }),
  );
  kernel.updateMap(map, firstKey, value);
  kernel.freezeMap(map);
  kernel.pin(map, path);
  undo.push(() => kernel.removePin(path));
}

const firstKey = Buffer.alloc(4);

/**
 * Reads an attachment's record.
 *
 * @returns undefined where none is pinned.
 * @throws RemoraError attachmentDiffers for one that cannot be understood; KernelError.
 */
export function readRecord(kernel: KernelPort, pins: AttachmentPins): AttachmentRecord | undefined {
  return readRecordAt(kernel, pins.record);
}

/** The record of an ADD or a change that was decided and is not finished. */
export function readNextRecord(kernel: KernelPort, pins: AttachmentPins): AttachmentRecord | undefined {
  return readRecordAt(kernel, pins.nextRecord);
}

/** The record, or what is to become it where there is none yet: whose attachment it is, also where its ADD did not end. */
export function readAnyRecord(kernel: KernelPort, pins: AttachmentPins): AttachmentRecord | undefined {
  return readRecord(kernel, pins) ?? readNextRecord(kernel, pins);
}

function readRecordAt(kernel: KernelPort, path: string): AttachmentRecord | undefined {
  using handles = new Handles(kernel);
  const pinned = handles.openPin(path);
  if (!pinned) return undefined;
  const damaged = (why: string): RemoraError =>
    new RemoraError(code.attachmentDiffers, `the record ${path} cannot be understood: ${why}`);
  if (pinned.kind !== "map") throw damaged(`it is a ${pinned.kind}, not a map`);
  const value = kernel.lookupMap(pinned.fd, firstKey);
  const end = value?.indexOf(0) ?? -1;
  const json = value?.toString("utf8", 0, end < 0 ? value.length : end) ?? "";
  let record: unknown;
  try {
    record = JSON.parse(json);
  } catch {
    throw damaged("it holds no JSON");
  }
  if (!isRecord(record)) throw damaged(`its format is not ${format}, or a part is missing`);
  return record;
}

/** Whoever can write here is root on the node, so this guards against other versions and accidents, not against malice. */
function isRecord(value: unknown): value is AttachmentRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<AttachmentRecord>;
  return (
    record.format === format &&
    typeof record.id?.containerId === "string" &&
    typeof record.netns === "string" &&
    typeof record.namespace?.ino === "string" &&
    typeof record.ifindex === "number" &&
    typeof record.generation === "number" &&
    Array.isArray(record.degraded) &&
    Array.isArray(record.programDirs) &&
    typeof record.chains === "object" &&
    record.chains !== null &&
    (record.chains.host === undefined || typeof record.host?.ifindex === "number") &&
    chainPlaces.every((place) => {
      const chain = record.chains?.[place];
      return (
        chain === undefined || (Array.isArray(chain.stages) && chain.stages.every(({ entries }) => entries.length > 0))
      );
    })
  );
}
