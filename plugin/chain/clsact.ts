// SPDX-License-Identifier: Apache-2.0
/**
 * A chain on the clsact qdisc, for kernels before TCX: a direct-action cls_bpf filter. There is no bpf_link that could be
 * pinned; what is pinned instead is a small map that describes the filter: where it hangs, and the ids of the programs that it may
 * run. By these ids, which the kernel gives once, it is told from those of others.
 *
 * The map is pinned before the filter is made and goes after it, and before a switch it names both programs: a crash at any point
 * leaves something that DEL, gc and settle (settle.ts) can finish, from the pin alone. A DEL needs neither CNI_NETNS nor the record.
 *
 * The filter belongs to the device. A process of the pod with CAP_NET_ADMIN can remove it: CHECK says so, and a change puts it back.
 * When the device goes, so does the filter. But where the filter's namespace cannot be reached from here, and is not known to be gone,
 * it is not forgotten: the pins stay, since without them the chain that packets still meet would be empty, and drop them.
 */

import { isDeepStrictEqual } from "node:util";
import { type Fd, type Filter, type HookPlace, KernelError, type KernelPort, type TcxProgram } from "../kernel/port.ts";
import type { Hook, HookState } from "./hook.ts";
import type { AttachmentPins } from "./pins.ts";
import { type ChainPlace, chainPlaces, hookAt } from "./places.ts";
import { isSameNamespace, type RecordedNamespace } from "./record.ts";
import { Handles, is } from "./undo.ts";

/** What the pinned map holds, as JSON behind two u32: the ids of the programs that the filter may run, 0 for none. */
interface Description {
  netns: string;
  namespace: RecordedNamespace;
  ifindex: number;
  direction: HookPlace["direction"];
  /** The qdisc is there for us alone: it goes with the last filter. */
  madeQdisc: boolean;
  /** Where among the others. Missing until the filter is made, and from descriptions of older versions: then all are looked through. */
  at?: Pick<Filter, "priority" | "handle">;
}
interface Described extends Description {
  map: Fd;
  size: number;
  ids: number[];
}

const firstKey = Buffer.alloc(4);
const idsSize = 8;
/** Room for any. */
const longestPlace = { priority: 0xffff, handle: 0xffffffff };

export const clsact: Hook = {
  noun: "filter",
  pin: (pins, place) => pins.filter(place),

  attach(kernel, pins, request, { handles, undo }) {
    const { place, program, programId, namespace } = request;
    const { netns, ifindex, direction } = hookAt(place, request);
    if (netns === undefined) throw new Error("a filter at the host's end");
    const device = { netns, namespace, ifindex };
    const ours = hasOurQdisc(kernel, pins, place, device);
    const madeQdisc = ours || !kernel.hasQdisc({ netns, ifindex, direction });
    const description: Description = { ...device, direction, madeQdisc };
    const size = roundUp(idsSize + textOf({ ...description, madeQdisc: false, at: longestPlace }).length);
    const map = handles.own(
      kernel.createMap({ type: "array", name: "remora_filter", keySize: 4, valueSize: size, maxEntries: 1 }),
    );
    const described: Described = { ...description, map, size, ids: [programId] };
    write(kernel, described);
    const path = pins.filter(place);
    kernel.pin(map, path);
    // One step: while the filter cannot be taken off, its description stays.
    undo.push(() => {
      takeOff(kernel, described);
      kernel.removePin(path);
    });
    const made = kernel.attachFilter({ netns, ifindex, direction, program });
    described.at = { priority: made.priority, handle: made.handle };
    // Somebody else may have made or removed the qdisc between the two.
    described.madeQdisc = ours || made.madeQdisc;
    write(kernel, described);
  },

  state(kernel, path) {
    using handles = new Handles(kernel);
    const pinned = handles.openPin(path);
    if (!pinned) return { state: "missing" };
    const described = pinned.kind === "map" ? read(kernel, pinned.fd) : undefined;
    if (!described) return { state: "foreign", kind: pinned.kind };
    const found = look(kernel, described);
    if (found.state !== "attached") return found;
    const { ifindex, direction } = described;
    return { state: "attached", programId: found.filter.programId, ifindex, direction };
  },

  update(kernel, path, program) {
    using handles = new Handles(kernel);
    const described = read(kernel, handles.own(kernel.openPin(path).fd));
    const found = described && look(kernel, described);
    if (!described || found?.state !== "attached")
      throw new KernelError("replaceFilter", "ENOENT", `${path}: there is no filter to be given another program`);
    const { id } = kernel.programInfo(program);
    write(kernel, { ...described, ids: [id, found.filter.programId] });
    kernel.replaceFilter(described, found.filter, program);
    write(kernel, { ...described, ids: [id] });
  },

  remove(kernel, path) {
    using handles = new Handles(kernel);
    const pinned = handles.openPin(path);
    if (!pinned) return;
    const described = pinned.kind === "map" ? read(kernel, pinned.fd) : undefined;
    if (described) takeOff(kernel, described);
    kernel.removePin(path);
  },

  ahead(kernel, where, programId) {
    const filters = kernel.listFilters(where);
    const own = Math.max(
      0,
      filters.findIndex((one) => one.programId === programId),
    );
    return [...tcxPrograms(kernel, where), ...filters.slice(0, own).map((one) => nameOf(kernel, one))];
  },
};

/** Where the filter of the other direction hangs on the same device and needed a qdisc, that one is ours. */
function hasOurQdisc(
  kernel: KernelPort,
  pins: AttachmentPins,
  place: ChainPlace,
  { namespace, ifindex }: Pick<Description, "namespace" | "ifindex">,
): boolean {
  using handles = new Handles(kernel);
  return chainPlaces.some((other) => {
    const pinned = other === place ? undefined : handles.openPin(pins.filter(other));
    const found = pinned?.kind === "map" ? read(kernel, pinned.fd) : undefined;
    return found?.madeQdisc && found.ifindex === ifindex && isDeepStrictEqual(found.namespace, namespace);
  });
}

/** By the kernel's order all of them come before the filters; none where the kernel has no TCX. */
function tcxPrograms(kernel: KernelPort, where: HookPlace): TcxProgram[] {
  try {
    return kernel.listTcx(where);
  } catch (error) {
    if (is(error, "EINVAL")) return [];
    throw error;
  }
}

function nameOf(kernel: KernelPort, { programId, priority }: Filter): TcxProgram {
  const unknown = { programId, linkId: 0, name: `a filter of priority ${priority}` };
  if (programId === 0) return unknown;
  using handles = new Handles(kernel);
  try {
    return { ...unknown, name: kernel.programInfo(handles.own(kernel.openProgramById(programId))).name };
  } catch (error) {
    if (is(error, "ENOENT")) return unknown;
    throw error;
  }
}

/**
 * Where the filter is. `detached`: its device or namespace is gone. `removed`: they are there, and it is not. `unseen`: nobody
 * can tell from here.
 */
function look(
  kernel: KernelPort,
  described: Described,
): { state: "attached"; filter: Filter } | Exclude<HookState, { state: "attached" | "foreign" | "missing" }> {
  const { netns, namespace, ids } = described;
  const identity = kernel.namespaceIdentity(netns);
  if (!identity) return { state: namespaceIsGone(kernel, netns) ? "detached" : "unseen" };
  // The path names another pod's by now.
  if (!isSameNamespace(namespace, identity)) return { state: "detached" };
  let found: Filter[];
  try {
    found = filtersOf(kernel, described);
  } catch (error) {
    if (is(error, ...gone)) return { state: "detached" };
    throw error;
  }
  const filter = found.find(({ programId }) => ids.includes(programId));
  if (filter) return { state: "attached", filter };
  // Who reads without the lock may have read before a switch and listed after it; the map is written before.
  const since = read(kernel, described.map);
  return since && since.ids.join() !== ids.join() ? look(kernel, since) : { state: "removed" };
}

/**
 * Those among which ours is, if it is anywhere. Only we can add it, so that where it was put nobody has to look through the others: a
 * process in the pod can add some that the kernel cannot even list.
 */
function filtersOf(kernel: KernelPort, { at, ...place }: Described): Filter[] {
  if (!at) return kernel.listFilters(place);
  const found = kernel.findFilter(place, at);
  return found ? [found] : [];
}

/** The device or its namespace went away while we were looking. */
const gone = ["ENODEV", "ENOENT", "EINVAL"];

/**
 * Whether a path that names no namespace ever will: not where the folder that it lay in is not there either, as in a
 * container to which the node's folder was not given.
 */
export function namespaceIsGone(kernel: KernelPort, netns: string): boolean {
  return netns.startsWith("/proc/") || kernel.hasFolder(netns.slice(0, netns.lastIndexOf("/")) || "/");
}

/** How often a filter is looked for again that was just removed, by us or by somebody else. */
const rounds = 5;

/** Removes the filter, and the qdisc that was made for it where nobody needs it any more. */
function takeOff(kernel: KernelPort, described: Described): void {
  for (let round = 1; ; round++) {
    const found = look(kernel, described);
    if (found.state === "unseen")
      throw new KernelError(
        "detachFilter",
        "ENOENT",
        `${described.netns} cannot be seen from here: the filter of ${described.direction} in it was not removed`,
      );
    if (found.state === "detached") return;
    if (found.state === "removed") break;
    // One that goes meanwhile is what we want; one that stays although it is not there is not ours to understand.
    unless(round < rounds ? gone : [], () => kernel.detachFilter(described, found.filter));
  }
  if (described.madeQdisc) unless(gone, () => kernel.removeQdisc(described));
}

function read(kernel: KernelPort, map: Fd): Described | undefined {
  const value = kernel.lookupMap(map, firstKey);
  if (!value || value.length <= idsSize) return undefined;
  const ids = [value.readUInt32LE(0), value.readUInt32LE(4)].filter((id) => id !== 0);
  const end = value.indexOf(0, idsSize);
  try {
    const description = JSON.parse(value.toString("utf8", idsSize, end < 0 ? value.length : end)) as Description;
    return typeof description.netns === "string" ? { ...description, map, size: value.length, ids } : undefined;
  } catch {
    return undefined;
  }
}

function write(kernel: KernelPort, { map, size, ids, ...rest }: Described): void {
  const { netns, namespace, ifindex, direction, madeQdisc, at } = rest;
  const value = Buffer.alloc(size);
  ids.forEach((id, index) => {
    value.writeUInt32LE(id, index * 4);
  });
  textOf({ netns, namespace, ifindex, direction, madeQdisc, ...(at && { at }) }).copy(value, idsSize);
  kernel.updateMap(map, firstKey, value);
}

const textOf = (description: Description): Buffer => Buffer.from(JSON.stringify(description));
const roundUp = (bytes: number): number => Math.ceil(bytes / 8) * 8;

function unless(codes: string[], act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!is(error, ...codes)) throw error;
  }
}
