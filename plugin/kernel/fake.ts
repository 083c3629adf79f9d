// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel port in memory, for tests: a bpffs tree, maps, programs, TCX links and namespaces with interfaces.
 *
 * It answers like the kernel where that matters: who may go when nobody holds it, a PROG_ARRAY that is emptied when its
 * last descriptor and pin go, a link that detaches with them, and the errnos of files. It can fail at the nth operation
 * (`failAt`), and die there like a killed process (`crashAt`): every later operation then throws as well, until
 * `restart` closes what the dead process held, as the kernel would. Mistakes of the caller (double close, a foreign
 * descriptor) throw and are kept in `mistakes`.
 */

import { createHash } from "node:crypto";
import {
  type AttachRequest,
  type BtfType,
  counterLayout,
  type Direction,
  type EventReader,
  type Fd,
  type Filter,
  type HookPlace,
  type InterfaceInfo,
  KernelError,
  type KernelPort,
  type LinkInfo,
  type MapEntries,
  type MapInfo,
  type MapSnapshot,
  type MapSpec,
  type MapTypes,
  type NamespaceIdentity,
  type ObjectInfo,
  type ObjectMap,
  type ObjectProgram,
  type PeerInfo,
  type Pinned,
  type ProgramInfo,
  type Stage,
  type StageRequest,
  type TcxProgram,
  type TestRunRequest,
  type TestRunResult,
} from "./port.ts";

/** What kills the fake process at `crashAt`: who catches it and goes on gets it again at each operation. */
export class Crash extends Error {
  override readonly name = "Crash";
}

interface FakeMap {
  kind: "map";
  id: number;
  spec: Omit<MapSpec, "type"> & { type: string };
  values: Map<string, Buffer>;
  /** PROG_ARRAY only. */
  slots: Map<number, FakeProgram>;
  frozen: boolean;
}
interface FakeProgram {
  kind: "program";
  id: number;
  name: string;
  maps: FakeMap[];
  request: StageRequest;
}
interface FakeLink {
  kind: "link";
  id: number;
  program: FakeProgram;
  direction: Direction;
  /** Undefined once it is detached. */
  device: FakeInterface | undefined;
}
/** A locked directory: whoever has it open keeps the others out. */
interface FakeLock {
  kind: "lock";
  id: number;
  node: Node;
}
type Kept = FakeMap | FakeProgram | FakeLink | FakeLock;

interface FakeInterface {
  ifindex: number;
  name: string;
  mac: string;
}
/** A device's clsact qdisc, with what hangs on it. */
interface FakeFilter {
  direction: Direction;
  priority: number;
  handle: number;
  program: FakeProgram;
}
interface FakeNamespace {
  identity: NamespaceIdentity;
  interfaces: FakeInterface[];
  /** The host's ends of the interfaces, in their order. */
  peers: FakeInterface[];
}
interface FakeObject {
  info: ObjectInfo;
  /** Thrown by loadStage for this object. */
  refusal: { code: string; message: string; log?: string } | undefined;
}
interface Node {
  directory: boolean;
  pinned?: Kept;
  modified: number;
}

/** An object of the fake: sensible defaults around what a test cares about. */
export interface ObjectSketch {
  programs?: (Partial<ObjectProgram> & { name: string })[];
  maps?: (Partial<ObjectMap> & { name: string })[];
  parameters?: string[];
  refusal?: { code: string; message: string; log?: string };
}

const u32: BtfType = { kind: "int", name: "unsigned int", size: 4, signed: false, encoding: "int" };

/** Errnos that the kernel gives for each operation where a test names none. */
const defaultErrno = "EIO";

export class FakeKernel implements KernelPort {
  /** The folder on which the fake bpffs is mounted. */
  readonly mount: string;
  readonly cpus = 2;
  /** The operations so far, such as `pin /sys/fs/bpf/...`. */
  readonly operations: string[] = [];
  readonly mistakes: string[] = [];
  /** Called before each operation, with its number and its words: lets a test step in between. */
  interfere: ((operation: string, number: number) => void) | undefined;
  /** Milliseconds since the epoch. */
  clock = 1_000_000;
  /** What ring buffers hold, by the map's id; and who reads which. */
  readonly events = new Map<number, Buffer[]>();
  readonly readers = new Map<EventReader, number>();
  /** The BTF of maps, by the map's name. */
  readonly types = new Map<string, MapTypes>();
  /** TCX is missing: a kernel before Linux 6.6. */
  withoutTcx = false;
  /** Somebody in the pod has added a filter that is too large for the kernel to list. */
  largeFilter = false;
  /** The clsact qdisc is missing as well. */
  withoutClsact = false;
  /** The bpffs is mounted read-only, as those see it who ask. */
  readOnly = false;
  /** Folders outside of the bpffs that this process does not see; it sees all others. */
  hidden: string[] = [];
  /** What each interface has. */
  addresses: string[] = [];
  /** Interfaces are of this kind, and no ends of a pair. */
  withoutPeers: string | undefined;

  /** Those that were attached before the others, the last one first. */
  #first: FakeLink[] = [];
  #failures = new Map<number, string>();
  #crashAt: number | undefined;
  /** What is thrown since the process died. */
  #death: Crash | undefined;
  #nextFd = 3;
  #nextId = 1;
  #nextIfindex = 2;
  #fds = new Map<Fd, Kept>();
  #kept = new Set<Kept>();
  #nodes = new Map<string, Node>();
  #namespaces = new Map<string, FakeNamespace>();
  #objects = new Map<string, FakeObject>();
  #qdiscs = new Map<FakeInterface, FakeFilter[]>();

  constructor(mount = "/sys/fs/bpf") {
    this.mount = mount;
  }

  // ---- what tests arrange ------------------------------------------------------------------------------------

  /** The nth operation from now (1 is the next, 0 the one being interfered with) fails, with EIO where no errno is given. May be called several times. */
  failAt(nth: number, errno = defaultErrno): void {
    this.#failures.set(this.operations.length + nth, errno);
  }
  /** The process dies at the nth operation from now, before it is done. */
  crashAt(nth: number): void {
    this.#crashAt = this.operations.length + nth;
  }
  /** The operations that were to fail and were not reached are forgotten. */
  calm(): void {
    this.#failures.clear();
    this.#crashAt = undefined;
  }
  /** A new process: what the old one held open is closed. */
  restart(): void {
    this.#death = undefined;
    this.calm();
    this.#fds.clear();
    this.#reap();
  }

  /** Makes an object's file: `inspectObject` and `loadStage` know it by its bytes. */
  object(name: string, sketch: ObjectSketch = {}): Buffer {
    const bytes = Buffer.from(`fake object ${name}`);
    const programs = sketch.programs ?? [{ name: "handle" }];
    this.#objects.set(bytes.toString(), {
      refusal: sketch.refusal,
      info: {
        programs: programs.map((program) => ({
          section: "tc",
          type: "sched_cls",
          tailCalls: 0,
          inner: false,
          resizes: false,
          ...program,
        })),
        maps: (sketch.maps ?? []).map((map) => ({
          type: "array",
          keySize: 4,
          valueSize: 8,
          maxEntries: 1,
          flags: 0,
          pinned: false,
          internal: false,
          tags: [],
          layout: "",
          ...map,
        })),
        parameters: (sketch.parameters ?? []).map((parameter) => ({
          name: parameter,
          type: u32,
          initial: Buffer.alloc(4),
          tags: [],
        })),
        license: "GPL",
        sha256: createHash("sha256").update(bytes).digest("hex"),
        btf: true,
      },
    });
    return bytes;
  }

  namespace(path: string, interfaces: string[] = ["lo", "eth0"]): void {
    this.#namespaces.set(path, {
      identity: { dev: 4n, ino: 4026530000n + BigInt(this.#nextId++), cookie: BigInt(this.#nextId++) },
      interfaces: interfaces.map((name) => ({ ifindex: this.#nextIfindex++, name, mac: "02:00:00:00:00:01" })),
      peers: interfaces.map((name) => ({
        ifindex: this.#nextIfindex++,
        name: `host-${name}`,
        mac: "02:00:00:00:00:02",
      })),
    });
  }
  /** The namespace dies, and its devices with it, the host's ends as well: links on them become detached. */
  removeNamespace(path: string): void {
    const namespace = this.#namespaces.get(path);
    this.#namespaces.delete(path);
    const gone = [...(namespace?.interfaces ?? []), ...(namespace?.peers ?? [])];
    for (const link of this.#kept)
      if (link.kind === "link" && link.device && gone.includes(link.device)) link.device = undefined;
    for (const device of gone) this.#qdiscs.delete(device);
    this.#reap();
  }

  /** The namespace dies, and another pod's takes its path, its number and the indices of its interfaces: the cookie alone is another. */
  renewNamespace(path: string): void {
    const former = this.#namespaceAt("renewNamespace", path);
    this.removeNamespace(path);
    this.#namespaces.set(path, {
      identity: { ...former.identity, cookie: BigInt(this.#nextId++) },
      interfaces: former.interfaces.map((device) => ({ ...device })),
      peers: former.peers.map((device) => ({ ...device })),
    });
  }

  /** Everything that is still there: open descriptors, files below the mount, kernel objects, attached links. */
  left(): string[] {
    return [
      ...[...this.#fds].map(([fd, kept]) => `fd ${fd}: ${kept.kind} ${kept.id}`),
      ...[...this.#nodes.keys()].sort(),
      ...[...this.#kept].map((kept) => `${kept.kind} ${kept.id}`),
      ...[...this.#qdiscs].map(([device, filters]) => `clsact of ${device.name}: ${filters.length} filters`),
      ...this.mistakes,
    ];
  }
  /** Killed, and not restarted yet. */
  get dead(): boolean {
    return this.#death !== undefined;
  }
  openFds(): number {
    return this.#fds.size;
  }
  /** The files and folders below the mount, sorted. */
  files(): string[] {
    return [...this.#nodes.keys()].sort();
  }
  /** The stages that packets of an interface meet, in order: the chain behind each attached link. `host`: what they meet on ingress of the host's end. */
  chains(place: Direction | "host"): StageRequest[][] {
    const peers = [...this.#namespaces.values()].flatMap((namespace) => namespace.peers);
    return [...this.#kept]
      .filter((kept): kept is FakeLink => kept.kind === "link" && kept.device !== undefined)
      .filter(({ device, direction }) => {
        const atHost = device !== undefined && peers.includes(device);
        return place === "host" ? atHost && direction === "ingress" : !atHost && direction === place;
      })
      .map(({ program }) => program)
      .concat(this.#filterHeads(place))
      .map(({ maps: [array] }) =>
        [...(array?.slots ?? [])].sort(([a], [b]) => a - b).map(([, program]) => program.request),
      );
  }
  /** Everybody's filters on every qdisc of a pod go, and the qdisc: `tc qdisc delete dev eth0 clsact`, by a process in the pod. */
  removeFilters(): void {
    this.#qdiscs.clear();
    this.#reap();
  }
  /** What is pinned there changes behind everybody's back. */
  tamper(path: string): FakeMap | FakeProgram | FakeLink {
    const kept = this.#nodes.get(path)?.pinned;
    if (!kept || kept.kind === "lock") throw new Error(`nothing is pinned at ${path}`);
    return kept;
  }
  /** Writes a row of counters: the same words on the first CPU, nothing on the others. */
  count(path: string, position: number, words: Partial<Record<number, number>>): void {
    const map = this.tamper(path);
    if (map.kind !== "map") throw new Error(`${path} is no map`);
    const row = Buffer.alloc(counterLayout.words * 8 * this.cpus);
    for (const [word, value] of Object.entries(words)) row.writeBigUInt64LE(BigInt(value ?? 0), Number(word) * 8);
    map.values.set(key32(position).toString("hex"), row);
  }

  // ---- the port ------------------------------------------------------------------------------------------------

  inspectObject(object: Buffer): ObjectInfo {
    this.#step("inspectObject");
    return this.#object("inspectObject", object).info;
  }

  loadStage(request: StageRequest): Stage {
    this.#step(`loadStage ${request.name} ${request.position}/${request.length}`);
    const object = this.#object("loadStage", request.object);
    const refuse = (message: string): never => {
      this.mistakes.push(message);
      throw new KernelError("loadStage", "EINVAL", message);
    };
    const chain = this.#held("loadStage", request.chain, "map");
    const counters = this.#held("loadStage", request.counters, "map");
    if (chain.spec.type !== "prog_array" || chain.spec.maxEntries < request.length)
      refuse("chain is no such PROG_ARRAY");
    if (counters.spec.type !== "percpu_array" || counters.spec.maxEntries < request.length) refuse("no such counters");
    if (request.position >= request.length) refuse("position beyond the chain");
    for (const entry of request.entries) {
      if (!object.info.programs.some((program) => program.name === entry.function)) refuse(`no ${entry.function}`);
      for (const { name } of entry.parameters)
        if (!object.info.parameters.some((parameter) => parameter.name === name)) refuse(`no parameter ${name}`);
    }
    for (const { name } of request.reuse)
      if (!object.info.maps.some((map) => map.name === name)) refuse(`reuse of ${name}, which is no map of the object`);
    const endings = (request.endings ?? []).map((fd) => this.#held("loadStage", fd, "map"));
    if (object.refusal)
      throw new KernelError("loadStage", object.refusal.code, object.refusal.message, object.refusal.log);
    for (const name of request.without ?? [])
      if (!object.info.maps.some((map) => map.name === name)) refuse(`without ${name}, which is no map of the object`);
    const wanted = object.info.maps.filter(({ name }) => !request.without?.includes(name));
    const maps = wanted.map((map) => {
      const reused = request.reuse.find(({ name }) => name === map.name);
      const backing = reused
        ? this.#compatible(map, this.#held("loadStage", reused.fd, "map"))
        : this.#newMap({ ...map, type: map.type, name: map.name.slice(0, 15) });
      return { map, backing };
    });
    const program: FakeProgram = {
      kind: "program",
      id: this.#nextId++,
      name: request.name.slice(0, 15),
      maps: [chain, counters, ...endings, ...maps.map(({ backing }) => backing)],
      request,
    };
    this.#kept.add(program);
    return {
      program: this.#open(program),
      programId: program.id,
      placed: true,
      maps: maps.map(({ map, backing }) => ({
        name: map.name,
        fd: this.#open(backing),
        id: backing.id,
        pinned: map.pinned,
        internal: map.internal,
        type: map.type,
      })),
    };
  }

  createMap(spec: MapSpec): Fd {
    this.#step(`createMap ${spec.name}`);
    if (spec.name.length > 15 || spec.maxEntries < 1) throw new KernelError("createMap", "EINVAL", "Invalid argument");
    return this.#open(this.#newMap(spec));
  }
  mapInfo(map: Fd): MapInfo {
    this.#step("mapInfo");
    const { id, spec } = this.#held("mapInfo", map, "map");
    const { type, name, keySize, valueSize, maxEntries } = spec;
    return { id, type, name, keySize, valueSize, maxEntries };
  }
  updateMap(map: Fd, key: Buffer, value: Buffer): void {
    this.#step("updateMap");
    const held = this.#held("updateMap", map, "map");
    if (held.frozen) throw new KernelError("updateMap", "EPERM", "Operation not permitted");
    if (held.spec.type === "prog_array") {
      const slot = key.readUInt32LE();
      if (slot >= held.spec.maxEntries) throw new KernelError("updateMap", "E2BIG", "Argument list too long");
      held.slots.set(slot, this.#held("updateMap", value.readUInt32LE(), "program"));
      return;
    }
    const size = held.spec.type === "percpu_array" ? held.spec.valueSize * this.cpus : held.spec.valueSize;
    if (key.length !== held.spec.keySize || value.length !== size)
      throw new KernelError("updateMap", "EINVAL", "Invalid argument");
    held.values.set(key.toString("hex"), Buffer.from(value));
  }
  deleteFromMap(map: Fd, key: Buffer): void {
    this.#step("deleteFromMap");
    this.#held("deleteFromMap", map, "map").values.delete(key.toString("hex"));
  }
  lookupMap(map: Fd, key: Buffer): Buffer | undefined {
    this.#step("lookupMap");
    const held = this.#held("lookupMap", map, "map");
    if (held.spec.type === "prog_array") {
      const program = held.slots.get(key.readUInt32LE());
      return program && key32(program.id);
    }
    const found = held.values.get(key.toString("hex"));
    if (found || held.spec.type === "hash") return found && Buffer.from(found);
    if (key.readUInt32LE() >= held.spec.maxEntries) return undefined;
    return Buffer.alloc(held.spec.type === "percpu_array" ? held.spec.valueSize * this.cpus : held.spec.valueSize);
  }
  mapEntries(map: Fd, limit: number): MapEntries {
    this.#step("mapEntries");
    const held = this.#held("mapEntries", map, "map");
    if (["ringbuf", "perf_event_array"].includes(held.spec.type))
      throw new KernelError("mapEntries", "ENOTSUPP", "Operation not supported");
    const array = held.spec.type.endsWith("array") && held.spec.type !== "prog_array";
    const keys = array
      ? Array.from({ length: held.spec.maxEntries }, (_, index) => key32(index))
      : held.spec.type === "prog_array"
        ? [...held.slots.keys()].sort((a, b) => a - b).map(key32)
        : [...held.values.keys()].map((key) => Buffer.from(key, "hex"));
    const perCpu = held.spec.type.includes("percpu");
    const empty = Buffer.alloc(perCpu ? held.spec.valueSize * this.cpus : held.spec.valueSize);
    const entries = keys.slice(0, limit).map((key) => {
      const program = held.slots.get(key.readUInt32LE());
      return { key, value: program ? key32(program.id) : (held.values.get(key.toString("hex")) ?? empty) };
    });
    return { entries, more: keys.length > limit };
  }
  readMap(map: Fd): MapSnapshot {
    this.#step("readMap");
    const { values } = this.#held("readMap", map, "map");
    const keys = [...values.keys()].map((key) => Buffer.from(key, "hex"));
    return { count: keys.length, keys: Buffer.concat(keys), values: Buffer.concat([...values.values()]) };
  }
  mapTypes(map: Fd): MapTypes | undefined {
    this.#step("mapTypes");
    return this.types.get(this.#held("mapTypes", map, "map").spec.name);
  }
  openMapById(id: number): Fd {
    return this.#openById("openMapById", "map", id);
  }
  openProgramById(id: number): Fd {
    return this.#openById("openProgramById", "program", id);
  }
  openEvents(map: Fd): EventReader {
    this.#step("openEvents");
    const held = this.#held("openEvents", map, "map");
    if (held.spec.type !== "ringbuf") throw new KernelError("openEvents", "EINVAL", "Invalid argument");
    this.readers.set(this.#nextId, held.id);
    return this.#nextId++;
  }
  readEvents(reader: EventReader, limit: number): Buffer[] {
    this.#step("readEvents");
    const id = this.readers.get(reader);
    if (id === undefined) throw this.#mistake("readEvents", `no reader ${reader}`);
    return (this.events.get(id) ?? []).splice(0, limit);
  }
  closeEvents(reader: EventReader): void {
    this.#step("closeEvents");
    if (!this.readers.delete(reader)) throw this.#mistake("closeEvents", `no reader ${reader}`);
  }
  freezeMap(map: Fd): void {
    this.#step("freezeMap");
    this.#held("freezeMap", map, "map").frozen = true;
  }
  awaitPrograms(): void {
    this.#step("awaitPrograms");
  }
  programInfo(program: Fd): ProgramInfo {
    this.#step("programInfo");
    const held = this.#held("programInfo", program, "program");
    return {
      id: held.id,
      name: held.name,
      type: "sched_cls",
      tag: "",
      mapIds: held.maps.map(({ id }) => id),
      instructions: 0,
      verified: 0,
    };
  }
  testRun(request: TestRunRequest): TestRunResult {
    this.#step("testRun");
    this.#held("testRun", request.program, "program");
    throw new KernelError("testRun", "EOPNOTSUPP", "the fake runs no programs");
  }

  attachTcx(request: AttachRequest): Fd {
    this.#step(`attachTcx ${request.direction}${request.before ? " before" : ""}`);
    const program = this.#held("attachTcx", request.program, "program");
    if (this.withoutTcx) throw new KernelError("attachTcx", "EINVAL", "Invalid argument");
    const device = this.#device("attachTcx", request);
    const link: FakeLink = { kind: "link", id: this.#nextId++, program, direction: request.direction, device };
    this.#kept.add(link);
    if (request.before) this.#first.unshift(link);
    return this.#open(link);
  }
  listTcx(place: HookPlace): TcxProgram[] {
    this.#step("listTcx");
    if (this.withoutTcx) throw new KernelError("listTcx", "EINVAL", "Invalid argument");
    // The loopback device of the plugin's own namespace.
    if (place.netns === undefined && place.ifindex === 1) return [];
    const device = this.#device("listTcx", place);
    return this.#tcx()
      .filter((link) => link.device === device && link.direction === place.direction)
      .map(({ id, program }) => ({ programId: program.id, linkId: id, name: program.name }));
  }
  linkInfo(link: Fd): LinkInfo {
    this.#step("linkInfo");
    const { id, program, direction, device } = this.#held("linkInfo", link, "link");
    return { id, type: "tcx", programId: program.id, ifindex: device?.ifindex ?? 0, direction };
  }
  updateLink(link: Fd, program: Fd): void {
    this.#step("updateLink");
    const held = this.#held("updateLink", link, "link");
    if (!held.device) throw new KernelError("updateLink", "ENOLINK", "Link has been severed");
    held.program = this.#held("updateLink", program, "program");
    this.#reap();
  }
  detachLink(link: Fd): void {
    this.#step("detachLink");
    const held = this.#held("detachLink", link, "link");
    if (!held.device) throw new KernelError("detachLink", "ENOLINK", "Link has been severed");
    held.device = undefined;
  }

  attachFilter(request: HookPlace & { program: Fd }): Filter & { madeQdisc: boolean } {
    this.#step(`attachFilter ${request.direction}`);
    const program = this.#held("attachFilter", request.program, "program");
    const device = this.#device("attachFilter", request);
    if (this.withoutClsact)
      throw new KernelError("attachFilter", "EOPNOTSUPP", "this kernel has no clsact qdisc (CONFIG_NET_SCH_INGRESS)");
    const madeQdisc = !this.#qdiscs.has(device);
    const filters = this.#qdiscs.get(device) ?? [];
    this.#qdiscs.set(device, filters);
    const taken = filters.filter(({ direction }) => direction === request.direction).map(({ priority }) => priority);
    const filter = { direction: request.direction, priority: Math.min(513, ...taken) - 1, handle: 1, program };
    filters.push(filter);
    return { priority: filter.priority, handle: 1, programId: program.id, madeQdisc };
  }
  replaceFilter(place: HookPlace, filter: Filter, program: Fd): void {
    this.#step("replaceFilter");
    this.#filter("replaceFilter", place, filter).program = this.#held("replaceFilter", program, "program");
    this.#reap();
  }
  hasQdisc(place: HookPlace): boolean {
    this.#step("hasQdisc");
    return this.#qdiscs.has(this.#device("hasQdisc", place));
  }
  findFilter(place: HookPlace, at: Pick<Filter, "priority" | "handle">): Filter | undefined {
    this.#step("findFilter");
    return this.#filtersAt("findFilter", place).find(
      ({ priority, handle }) => priority === at.priority && handle === at.handle,
    );
  }
  listFilters(place: HookPlace): Filter[] {
    this.#step("listFilters");
    if (this.largeFilter) throw new KernelError("listFilters", "EMSGSIZE", "one is too large for the kernel to list");
    return this.#filtersAt("listFilters", place);
  }
  #filtersAt(operation: string, place: HookPlace): Filter[] {
    return (this.#qdiscs.get(this.#device(operation, place)) ?? [])
      .filter(({ direction }) => direction === place.direction)
      .map(({ priority, handle, program }) => ({ priority, handle, programId: program.id }))
      .sort((a, b) => a.priority - b.priority);
  }
  detachFilter(place: HookPlace, filter: Filter): void {
    this.#step("detachFilter");
    const found = this.#filter("detachFilter", place, filter);
    const device = this.#device("detachFilter", place);
    this.#qdiscs.set(device, this.#qdiscs.get(device)?.filter((other) => other !== found) ?? []);
    this.#reap();
  }
  removeQdisc(place: HookPlace): boolean {
    this.#step("removeQdisc");
    const device = this.#device("removeQdisc", place);
    if (this.largeFilter || (this.#qdiscs.get(device)?.length ?? 0) > 0) return false;
    this.#qdiscs.delete(device);
    return true;
  }

  findInterface(netns: string, ifname: string): InterfaceInfo {
    this.#step(`findInterface ${ifname}`);
    const namespace = this.#namespaceAt("findInterface", netns);
    const found = namespace.interfaces.find(({ name }) => name === ifname);
    if (!found) throw new KernelError("findInterface", "ENODEV", `no interface ${ifname} in ${netns}`);
    return { ifindex: found.ifindex, mac: found.mac, mtu: 1500, namespace: namespace.identity };
  }
  interfaceAddresses(netns: string, ifname: string): string[] {
    this.#step(`interfaceAddresses ${ifname}`);
    const found = this.#namespaceAt("interfaceAddresses", netns).interfaces.find(({ name }) => name === ifname);
    if (!found) throw new KernelError("interfaceAddresses", "ENODEV", `no interface ${ifname} in ${netns}`);
    return [...this.addresses];
  }
  findPeer(netns: string, ifname: string): PeerInfo {
    this.#step(`findPeer ${ifname}`);
    const { interfaces, peers } = this.#namespaceAt("findPeer", netns);
    const found = peers[interfaces.findIndex(({ name }) => name === ifname)];
    if (!found) throw new KernelError("findPeer", "ENODEV", `no interface ${ifname} in ${netns}`);
    if (this.withoutPeers !== undefined)
      throw new KernelError("findPeer", "EREFUSED", `${ifname} is a ${this.withoutPeers} device, no end of a pair`);
    return { ifindex: found.ifindex, ifname: found.name, kind: "veth" };
  }
  namespaceIdentity(netns: string): NamespaceIdentity | undefined {
    this.#step("namespaceIdentity");
    if (this.hidden.includes(parentOf(netns))) return undefined;
    return this.#namespaces.get(netns)?.identity;
  }

  pin(fd: Fd, path: string): void {
    this.#step(`pin ${path}`);
    const kept = this.#fds.get(fd);
    if (!kept) throw this.#mistake("pin", `fd ${fd} is not open`);
    this.#create("pin", path, { directory: false, pinned: kept, modified: this.clock });
  }
  openPin(path: string): Pinned {
    this.#step(`openPin ${path}`);
    const node = this.#nodes.get(path);
    if (!node) throw new KernelError("openPin", "ENOENT", `${path}: No such file or directory`);
    if (!node.pinned || node.pinned.kind === "lock")
      throw new KernelError("openPin", "EACCES", `${path}: Permission denied`);
    return { kind: node.pinned.kind, fd: this.#open(node.pinned) };
  }
  close(fd: Fd): void {
    // A close that fails has closed all the same, as in the kernel.
    const kept = this.#fds.get(fd);
    if (!this.#death) {
      this.#fds.delete(fd);
      this.#letGo(kept);
    }
    this.#step("close");
    if (!kept) throw this.#mistake("close", `fd ${fd} is not open`);
  }

  makeDirectory(path: string): void {
    this.#step(`makeDirectory ${path}`);
    this.#create("makeDirectory", path, { directory: true, modified: this.clock });
  }
  removePin(path: string): void {
    this.#step(`removePin ${path}`);
    const node = this.#nodes.get(path);
    if (!node) return;
    if (node.directory) throw new KernelError("removePin", "EISDIR", `${path}: Is a directory`);
    this.#nodes.delete(path);
    this.#touchParent(path);
    this.#letGo(node.pinned);
  }
  renamePin(from: string, to: string): void {
    this.#step(`renamePin ${from} ${to}`);
    const node = this.#nodes.get(from);
    if (!node) throw new KernelError("renamePin", "ENOENT", `${from}: No such file or directory`);
    this.#nodes.set(to, node);
    this.#nodes.delete(from);
    this.#touchParent(to);
    this.#reap();
  }
  tryLock(path: string): Fd | undefined {
    this.#step(`tryLock ${path}`);
    const node = this.#nodes.get(path);
    if (!node) throw new KernelError("tryLock", "ENOENT", `${path}: No such file or directory`);
    if (!node.directory) throw new KernelError("tryLock", "ENOTDIR", `${path}: Not a directory`);
    for (const kept of this.#kept) if (kept.kind === "lock" && kept.node === node) return undefined;
    const lock: FakeLock = { kind: "lock", id: this.#nextId++, node };
    this.#kept.add(lock);
    return this.#open(lock);
  }
  names(path: string, directory: Fd): boolean {
    this.#step(`names ${path}`);
    return this.#nodes.get(path) === this.#held("names", directory, "lock").node;
  }
  removeDirectory(path: string): void {
    this.#step(`removeDirectory ${path}`);
    if (path === this.mount) throw new KernelError("removeDirectory", "EBUSY", `${path}: Device or resource busy`);
    const node = this.#nodes.get(path);
    if (!node) return;
    if (!node.directory) throw new KernelError("removeDirectory", "ENOTDIR", `${path}: Not a directory`);
    if ([...this.#nodes.keys()].some((other) => other.startsWith(`${path}/`)))
      throw new KernelError("removeDirectory", "ENOTEMPTY", `${path}: Directory not empty`);
    this.#nodes.delete(path);
    this.#touchParent(path);
  }
  listDirectory(path: string): { name: string; directory: boolean }[] {
    this.#step(`listDirectory ${path}`);
    return [...this.#nodes]
      .filter(([other]) => parentOf(other) === path)
      .map(([other, { directory }]) => ({ name: other.slice(path.length + 1), directory }));
  }
  modified(path: string): number | undefined {
    this.#step(`modified ${path}`);
    return this.#nodes.get(path)?.modified;
  }
  hasFolder(path: string): boolean {
    this.#step(`hasFolder ${path}`);
    return !this.hidden.includes(path);
  }
  isBpffs(path: string): boolean {
    this.#step(`isBpffs ${path}`);
    return path === this.mount || path.startsWith(`${this.mount}/`);
  }
  readOnlyMount(path: string): string | undefined {
    this.#step(`readOnlyMount ${path}`);
    return this.readOnly ? this.mount : undefined;
  }

  // ---- inside --------------------------------------------------------------------------------------------------

  #step(operation: string): void {
    if (this.#death) throw this.#death;
    this.operations.push(operation);
    const number = this.operations.length;
    const interfere = this.interfere;
    if (interfere) {
      // What steps in is another process: its own operations are not interfered with.
      this.interfere = undefined;
      try {
        interfere(operation, number);
      } finally {
        this.interfere = interfere;
      }
    }
    if (number === this.#crashAt) {
      this.#death = new Crash(`crashed at operation ${number}: ${operation}`);
      throw this.#death;
    }
    const errno = this.#failures.get(number);
    if (errno !== undefined)
      throw new KernelError(operation.split(" ")[0] ?? operation, errno, `operation ${number}, ${operation}: ${errno}`);
  }

  #mistake(operation: string, message: string): KernelError {
    this.mistakes.push(`${operation}: ${message}`);
    return new KernelError(operation, "EBADF", message);
  }

  #openById(operation: string, kind: Kept["kind"], id: number): Fd {
    this.#step(operation);
    const found = [...this.#kept].find((kept) => kept.kind === kind && kept.id === id);
    if (!found) throw new KernelError(operation, "ENOENT", `${kind} ${id}: No such file or directory`);
    return this.#open(found);
  }

  #object(operation: string, object: Buffer): FakeObject {
    const found = this.#objects.get(object.toString());
    if (!found) throw new KernelError(operation, "EREFUSED", "not an ELF file");
    return found;
  }

  #compatible(wanted: ObjectMap, offered: FakeMap): FakeMap {
    const { type, keySize, valueSize, maxEntries } = offered.spec;
    if (
      type === wanted.type &&
      keySize === wanted.keySize &&
      valueSize === wanted.valueSize &&
      maxEntries === wanted.maxEntries
    )
      return offered;
    throw new KernelError(
      "loadStage",
      "EREFUSED",
      `map "${wanted.name}" cannot be used again: its type or sizes differ`,
    );
  }

  #newMap(spec: FakeMap["spec"]): FakeMap {
    const map: FakeMap = { kind: "map", id: this.#nextId++, spec, values: new Map(), slots: new Map(), frozen: false };
    this.#kept.add(map);
    return map;
  }

  #open(kept: Kept): Fd {
    const fd = this.#nextFd++;
    this.#fds.set(fd, kept);
    return fd;
  }

  #held<K extends Kept["kind"]>(operation: string, fd: Fd, kind: K): Extract<Kept, { kind: K }> {
    const kept = this.#fds.get(fd);
    if (kept?.kind !== kind) throw this.#mistake(operation, `fd ${fd} is no open ${kind}`);
    return kept as Extract<Kept, { kind: K }>;
  }

  #namespaceAt(operation: string, path: string): FakeNamespace {
    const namespace = this.#namespaces.get(path);
    if (!namespace) throw new KernelError(operation, "ENOENT", `${path}: No such file or directory`);
    return namespace;
  }

  #create(operation: string, path: string, node: Node): void {
    const fail = (errno: string): never => {
      throw new KernelError(operation, errno, `${path}: ${errno}`);
    };
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (path === this.mount || this.#nodes.has(path)) fail("EEXIST");
    if (!path.startsWith(`${this.mount}/`)) {
      this.mistakes.push(`${operation}: ${path} is outside of the bpffs`);
      fail("EINVAL");
    }
    const parent = parentOf(path);
    if (parent !== this.mount && !this.#nodes.has(parent)) fail("ENOENT");
    if (name.includes(".")) fail("EPERM");
    if (Buffer.byteLength(name) > 255) fail("ENAMETOOLONG");
    this.#nodes.set(path, node);
    this.#touchParent(path);
  }

  #touchParent(path: string): void {
    const parent = this.#nodes.get(parentOf(path));
    if (parent) parent.modified = this.clock;
  }

  #filterHeads(place: Direction | "host"): FakeProgram[] {
    return [...this.#qdiscs.values()]
      .flat()
      .flatMap(({ direction, program }) => (direction === place ? [program] : []));
  }
  /** Links in the order of their hooks. */
  #tcx(): FakeLink[] {
    const links = [...this.#kept].filter((kept) => kept.kind === "link");
    return [
      ...this.#first.filter((link) => links.includes(link)),
      ...links.filter((link) => !this.#first.includes(link)),
    ];
  }
  #device(operation: string, place: { netns: string | undefined; ifindex: number }): FakeInterface {
    const devices =
      place.netns === undefined
        ? [...this.#namespaces.values()].flatMap((namespace) => namespace.peers)
        : this.#namespaceAt(operation, place.netns).interfaces;
    const device = devices.find(({ ifindex }) => ifindex === place.ifindex);
    if (!device) throw new KernelError(operation, "ENODEV", "No such device");
    return device;
  }
  #filter(operation: string, place: HookPlace, wanted: Filter): FakeFilter {
    const found = this.#qdiscs
      .get(this.#device(operation, place))
      ?.find(
        ({ direction, priority, handle, program }) =>
          direction === place.direction &&
          priority === wanted.priority &&
          handle === wanted.handle &&
          program.id === wanted.programId,
      );
    if (!found) throw new KernelError(operation, "ENOENT", "No such file or directory");
    return found;
  }
  /** Somebody gave it up: a descriptor was closed, a pin removed. */
  #letGo(kept: Kept | undefined): void {
    if (!kept) return;
    for (const other of this.#fds.values()) if (other === kept) return;
    for (const { pinned } of this.#nodes.values()) if (pinned === kept) return;
    this.#reap();
  }
  /** Lets go of what nobody holds any more, as reference counts in the kernel do. */
  #reap(): void {
    const held = new Set<Kept>(this.#fds.values());
    for (const { pinned } of this.#nodes.values()) if (pinned) held.add(pinned);
    // Only user space keeps a PROG_ARRAY filled: a program that uses the array does not.
    for (const kept of this.#kept) if (kept.kind === "map" && !held.has(kept)) kept.slots.clear();
    const reached = new Set<Kept>();
    const visit = (kept: Kept): void => {
      if (reached.has(kept)) return;
      reached.add(kept);
      if (kept.kind === "link") visit(kept.program);
      else if (kept.kind === "program") kept.maps.forEach(visit);
      else if (kept.kind === "map") [...kept.slots.values()].forEach(visit);
    };
    held.forEach(visit);
    for (const filters of this.#qdiscs.values()) for (const { program } of filters) visit(program);
    for (const kept of this.#kept) if (!reached.has(kept)) this.#kept.delete(kept);
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

/** A u32 key or value, in the byte order of the machines that Remora runs on. */
function key32(number: number): Buffer {
  const key = Buffer.alloc(4);
  key.writeUInt32LE(number);
  return key;
}
