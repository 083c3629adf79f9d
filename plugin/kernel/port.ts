// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel port: all that Remora asks of the kernel, as plain values.
 *
 * `native.ts` implements it with the addon (and node:fs for what bpffs offers as files), `fake.ts` in memory, so
 * that each of these operations can be made to fail in a test. Every operation is synchronous, and throws a
 * `KernelError` when it fails. File descriptors are plain numbers, opened close-on-exec; who got one closes it.
 */

export type Fd = number;
export type Direction = "ingress" | "egress";
export const directions = ["ingress", "egress"] as const satisfies readonly Direction[];

/** A failed kernel operation: what was tried, the errno's name, and what the kernel (or the verifier) said. */
export class KernelError extends Error {
  override readonly name = "KernelError";
  /** The operation of the port that failed, such as `loadStage`. */
  readonly operation: string;
  /** An errno's name (`ENOENT`), or `EREFUSED` where Remora itself refuses an object before the kernel sees it. */
  readonly code: string;
  /** The whole log (verifier, libbpf) where there is one. */
  readonly log: string | undefined;

  constructor(operation: string, code: string, message: string, log?: string) {
    super(message);
    this.operation = operation;
    this.code = code;
    this.log = log;
  }
}

// ---- objects ---------------------------------------------------------------------------------------------------

/** A BTF type, as far as parameters and map values need it. Sizes in bytes. */
export type BtfType =
  | { kind: "int"; name: string; size: number; signed: boolean; encoding: "int" | "bool" | "char" }
  | { kind: "enum"; name: string; size: number; signed: boolean; values: { name: string; value: bigint }[] }
  | { kind: "array"; size: number; length: number; element: BtfType }
  | {
      kind: "struct" | "union";
      name: string;
      size: number;
      members: { name: string; bitOffset: number; bitSize: number; type: BtfType }[];
    }
  | { kind: "float"; name: string; size: number }
  | { kind: "other"; name: string; size: number };

/** One `const volatile` global of `.rodata`: a parameter. `tags` are its BTF declaration tags, in file order. */
export interface ObjectParameter {
  name: string;
  type: BtfType;
  /** The initial bytes in the object. */
  initial: Buffer;
  tags: string[];
}

/** One function that libbpf would load as a program. */
export interface ObjectProgram {
  /** The function's name. */
  name: string;
  section: string;
  /** `sched_cls` for everything that may stand in a chain, odd section names included; else libbpf's name of the type. */
  type: string;
  /** Upper bound of the tail calls one run can make inside the object (sites in it, its subprograms and the programs of its initialised PROG_ARRAYs). */
  tailCalls: number;
  /** True where an initialised PROG_ARRAY of the object holds this program: it is an inner program, no entry. */
  inner: boolean;
  /** True where it calls a helper that can change the packet's length. */
  resizes: boolean;
}

export interface ObjectMap {
  name: string;
  /** The kernel's name in lower case, such as `percpu_array`. */
  type: string;
  keySize: number;
  valueSize: number;
  maxEntries: number;
  flags: number;
  /** LIBBPF_PIN_BY_NAME. */
  pinned: boolean;
  /** `.data`, `.bss`, `.rodata` and their like. */
  internal: boolean;
  tags: string[];
  /** The same for maps whose keys and values have the same members in the same places, by BTF. Empty where that is not known. */
  layout: string;
}

/** What an ELF object holds; nothing is loaded to find out. */
export interface ObjectInfo {
  programs: ObjectProgram[];
  maps: ObjectMap[];
  parameters: ObjectParameter[];
  license: string;
  /** sha256 of the file's bytes, lower-case hex. */
  sha256: string;
  /** True where the object carries BTF. */
  btf: boolean;
}

// ---- stages ----------------------------------------------------------------------------------------------------

export interface StageRequest {
  /** The object's bytes, as the catalog read them (and only those: the file is not opened again). */
  object: Buffer;
  /** A name for log lines and the kernel's program name (15 bytes are kept). */
  name: string;
  /** The functions that this stage calls, in order. A list of one for now. */
  entries: { function: string; parameters: { name: string; bytes: Buffer }[] }[];
  /** 0-based place in the chain, and how many places there are. */
  position: number;
  length: number;
  /** Verdicts (TC_ACT_*) that go on to the next position. */
  proceedOn: number[];
  /** What a broken tail call does: `closed` drops (TC_ACT_SHOT), `open` returns TCX_NEXT (-1). */
  failurePolicy: "closed" | "open";
  /** The chain's PROG_ARRAY, and its counters (see `counterLayout`). */
  chain: Fd;
  counters: Fd;
  /** Count packets and bytes on entry here: the first position, and each that follows a program that resizes. */
  countHead: boolean;
  /** Maps of the object to use instead of new ones, by name. */
  reuse: { name: string; fd: Fd }[];
  /** Maps of the object that are not made: with these parameters its code does not reach them. */
  without?: string[];
  /** PERCPU_ARRAYs of one `struct remora_ending` (bpf/include/remora/ending.h): told how a packet ends here, by this name. */
  endings?: Fd[];
  /** Reports each packet, when it reaches the chain and after each program. Verdicts stay as they are. */
  trace?: StageTrace;
}

export interface StageTrace {
  /** A ring buffer: takes the events (see `traceLayout`). */
  events: Fd;
  /** A PERCPU_ARRAY of one entry, `traceLayout.event` + `traceLayout.header` + `bytes` long: where stages keep what they know of a packet. */
  state: Fd;
  /** One packet in so many is reported, 1 for each. The first position decides. */
  sample: number;
  /** Up to so many bytes of a packet go along when it reaches the chain; at least 1. */
  bytes: number;
  /** Comes back in each event, 0 to 255: which chain it was. */
  tag: number;
}

/**
 * Offsets in bytes. In the state: two u64 of the stages' own, a u64 that counts the events for which the ring buffer had no
 * room, and the event being made. In an event: u64 packet (unique with the CPU), u64 time (CLOCK_MONOTONIC, ns), u32 cpu,
 * u16 position, u8 kind, u8 tag, s32 verdict, u32 length of the packet, u32 number of bytes that follow the header, u32 mark.
 */
export const traceLayout = {
  lost: 16,
  event: 24,
  packet: 0,
  time: 8,
  cpu: 16,
  position: 20,
  kind: 22,
  tag: 23,
  verdict: 24,
  length: 28,
  captured: 32,
  mark: 36,
  header: 40,
} as const;
/** A packet before the first program, a program's verdict, and a tail call that did not go on (the verdict is the failure policy's). */
export const traceKinds = ["arrived", "returned", "broken"] as const;

/** A loaded stage. The caller closes `program` and every map's `fd`. */
export interface Stage {
  program: Fd;
  programId: number;
  /** The entry's instructions belong to the stage; otherwise they are a function that it calls. */
  placed: boolean;
  maps: { name: string; fd: Fd; id: number; pinned: boolean; internal: boolean; type: string }[];
}

/**
 * The counters of a chain: a PERCPU_ARRAY with u32 keys, one slot per position, each a row of u64:
 * packets and bytes on entry (only where `countHead`), bytes of the packets that ended here, then one number per way
 * of ending, in the order of `endings`.
 */
export const endings = [
  "ok",
  "reclassify",
  "shot",
  "pipe",
  "stolen",
  "queued",
  "repeat",
  "redirect",
  "trap",
  "unspec",
  "other",
  "broken",
] as const;
export type Ending = (typeof endings)[number];
export const counterLayout = {
  headPackets: 0,
  headBytes: 1,
  endedBytes: 2,
  endings: 3,
  words: 3 + endings.length,
} as const;

// ---- maps, programs, links -------------------------------------------------------------------------------------

export interface MapSpec {
  /** A ringbuf has no keys and values, and as many `maxEntries` as bytes: a power of two, at least 4096. */
  type: "array" | "hash" | "percpu_array" | "prog_array" | "ringbuf";
  name: string;
  keySize: number;
  valueSize: number;
  maxEntries: number;
}
export interface MapInfo {
  id: number;
  type: string;
  name: string;
  keySize: number;
  valueSize: number;
  maxEntries: number;
}
export interface ProgramInfo {
  id: number;
  name: string;
  type: string;
  tag: string;
  mapIds: number[];
  /** As the verifier has left them, with what the kernel put in. */
  instructions: number;
  /** Instructions that the verifier went through, of all ways together; 0 before Linux 5.16. */
  verified: number;
}
export interface LinkInfo {
  id: number;
  type: string;
  programId: number;
  /** 0 when the device is gone: the link is detached. */
  ifindex: number;
  direction: Direction | null;
}
/** Some entries of a map, and whether there were more. Per-CPU values as `lookupMap` gives them. */
export interface MapEntries {
  entries: { key: Buffer; value: Buffer }[];
  more: boolean;
}
/** All entries of a map, keys and values each one after the other. */
export interface MapSnapshot {
  count: number;
  keys: Buffer;
  values: Buffer;
}
/** What a map holds, by its BTF. A `.data`, `.bss` or `.rodata` has a struct of its variables for a value. */
export interface MapTypes {
  key: BtfType;
  value: BtfType;
}
/** A ring buffer being read; no descriptor. */
export type EventReader = number;
export type Pinned = { kind: "map" | "program" | "link"; fd: Fd };

export interface TestRunRequest {
  program: Fd;
  packet: Buffer;
  /** Fields of `struct __sk_buff` to set; others are 0. */
  context?: {
    mark?: number;
    priority?: number;
    ifindex?: number;
    cb?: number[];
    gsoSegs?: number;
    gsoSize?: number;
    wireLen?: number;
  };
  repeat?: number;
}
export interface TestRunResult {
  verdict: number;
  packet: Buffer;
  context: { mark: number; priority: number; cb: number[] };
  /** Average nanoseconds of a run. */
  duration: number;
}

// ---- namespaces and devices ------------------------------------------------------------------------------------

/** Which namespace a path names: `dev` and `ino` of the nsfs file, and the kernel's cookie (0 before Linux 5.14). */
export interface NamespaceIdentity {
  dev: bigint;
  ino: bigint;
  cookie: bigint;
}
export interface InterfaceInfo {
  ifindex: number;
  /** Lower-case, colon separated; empty where the device has no Ethernet header. */
  mac: string;
  mtu: number;
  namespace: NamespaceIdentity;
}
/** The other end of a veth pair, in the plugin's own network namespace. */
export interface PeerInfo {
  ifindex: number;
  ifname: string;
  /** The kind of both ends: `veth`. */
  kind: string;
}
/** One direction of one device: what TCX programs, and filters on the clsact qdisc, are attached to. */
export interface HookPlace {
  /** Undefined: the plugin's own network namespace. */
  netns: string | undefined;
  ifindex: number;
  direction: Direction;
}
export interface AttachRequest extends HookPlace {
  program: Fd;
  /** Before everybody who is on the hook, not after. */
  before?: boolean;
}

/** A program on a TCX hook. */
export interface TcxProgram {
  programId: number;
  /** 0 where it is attached without a link. */
  linkId: number;
  /** As the kernel has it, 15 bytes at most; empty where it went away meanwhile. */
  name: string;
}

/** A direct-action cls_bpf filter: where it hangs, and the program it should run. */
export interface Filter {
  priority: number;
  handle: number;
  programId: number;
}

export interface KernelPort {
  /** Reads an object: ELF and BTF only. Throws EREFUSED with the reason for what can never be loaded (not ELF, legacy maps, ...). */
  inspectObject(object: Buffer): ObjectInfo;
  /** Loads one stage of a chain: prologue, parameters, the user's unchanged instructions. */
  loadStage(request: StageRequest): Stage;

  createMap(spec: MapSpec): Fd;
  mapInfo(map: Fd): MapInfo;
  updateMap(map: Fd, key: Buffer, value: Buffer): void;
  /** Takes a key out, where it is in. */
  deleteFromMap(map: Fd, key: Buffer): void;
  /** Undefined where there is no such key. Per-CPU values come one after the other, each padded to 8 bytes. */
  lookupMap(map: Fd, key: Buffer): Buffer | undefined;
  /**
   * Up to `limit` entries. Of an array every slot counts, of a PROG_ARRAY or a map of maps those that hold something (the
   * value is an id). What comes and goes meanwhile may be in or out, but nothing is given twice.
   * Throws for types that user space cannot read by key: ENOTSUPP, EOPNOTSUPP or EINVAL.
   */
  mapEntries(map: Fd, limit: number): MapEntries;
  /**
   * All entries of a hash (LRU or not) or array, by batches: several times as fast as `mapEntries`, and an entry that is there
   * throughout is never missed, whatever comes and goes. EOPNOTSUPP for a map with a value per CPU.
   */
  readMap(map: Fd): MapSnapshot;
  /** Undefined where the map was made without BTF. */
  mapTypes(map: Fd): MapTypes | undefined;
  /** A map or program of the kernel's by its id. ENOENT where it is gone. */
  openMapById(id: number): Fd;
  openProgramById(id: number): Fd;
  /** Begins to read a ring buffer; `closeEvents` ends it. It holds the map on its own. */
  openEvents(map: Fd): EventReader;
  /** Takes out what is there by now, in order, up to `limit`. Does not wait. */
  readEvents(reader: EventReader, limit: number): Buffer[];
  closeEvents(reader: EventReader): void;
  /** Read-only for user space from now on. */
  freezeMap(map: Fd): void;
  programInfo(program: Fd): ProgramInfo;
  /**
   * Returns when every program that was running at the call has ended: what was switched off before the call is in
   * use by no packet then. Takes a grace period of RCU, some 10 milliseconds.
   */
  awaitPrograms(): void;
  testRun(request: TestRunRequest): TestRunResult;

  /** Attaches a program to the interface's TCX hook, from a thread inside the namespace. As the last one, where nothing else is asked for. */
  attachTcx(request: AttachRequest): Fd;
  /** The programs on a TCX hook, in the order in which packets meet them. EINVAL before Linux 6.6. */
  listTcx(place: HookPlace): TcxProgram[];
  linkInfo(link: Fd): LinkInfo;
  updateLink(link: Fd, program: Fd): void;
  detachLink(link: Fd): void;

  /**
   * Filters on the clsact qdisc, for kernels before TCX. `attachFilter` makes the qdisc where there is none (`madeQdisc`) and
   * takes a priority that nobody has, before the others where there is room; EBUSY where none is left, EOPNOTSUPP where the kernel
   * lacks what it takes (the message says which option). `hasQdisc`: whether the device has one. `listFilters`: all
   * that are there, in their order, with 0 for what is no eBPF program; ENODEV where the device is gone; EMSGSIZE where
   * somebody's is too large for the kernel to list, which hides those behind it. `findFilter`: the one of a priority and handle,
   * whatever else is there. The others find the filter as given: ENOENT where it is not there or runs another program
   * than `programId`. `replaceFilter` switches in one step.
   * `removeQdisc` does so if no filter is left, and says whether it is gone.
   */
  attachFilter(request: HookPlace & { program: Fd }): Filter & { madeQdisc: boolean };
  hasQdisc(place: HookPlace): boolean;
  replaceFilter(place: HookPlace, filter: Filter, program: Fd): void;
  listFilters(place: HookPlace): Filter[];
  findFilter(place: HookPlace, at: Pick<Filter, "priority" | "handle">): Filter | undefined;
  detachFilter(place: HookPlace, filter: Filter): void;
  removeQdisc(place: HookPlace): boolean;

  /** The interface as seen inside the namespace. ENODEV where it is not there, ENOENT where the namespace is not. */
  findInterface(netns: string, ifname: string): InterfaceInfo;
  /** The interface's addresses of both families, without prefix lengths, as the kernel has them now. Throws as `findInterface`. */
  interfaceAddresses(netns: string, ifname: string): string[];
  /**
   * The other end of the interface's pair, where it is in the plugin's own network namespace and each end names the other.
   * EREFUSED with the reason where there is no such; ENODEV and ENOENT as `findInterface`.
   */
  findPeer(netns: string, ifname: string): PeerInfo;
  /** Undefined where the path names no network namespace. */
  namespaceIdentity(netns: string): NamespaceIdentity | undefined;

  pin(fd: Fd, path: string): void;
  openPin(path: string): Pinned;
  close(fd: Fd): void;
  /**
   * bpffs as files. `removePin` and `removeDirectory` do nothing where there is nothing. `listDirectory` of what is not there is empty.
   * `makeDirectory` makes one level: EEXIST where there is something, ENOENT where the parent is not (a DEL may have taken it away).
   * `removeDirectory` removes an empty one: ENOTEMPTY otherwise, EBUSY on a mount point.
   */
  makeDirectory(path: string): void;
  removePin(path: string): void;
  /** Gives a pin another name in the same bpffs, in place of what had it. One step: the name is never without a pin. */
  renamePin(from: string, to: string): void;
  removeDirectory(path: string): void;
  listDirectory(path: string): { name: string; directory: boolean }[];
  /** When a file or directory of bpffs was last changed, in milliseconds since the epoch; undefined where it is not there. */
  modified(path: string): number | undefined;
  /**
   * Locks a directory against everybody else who asks (flock); closing the descriptor, or the process' end, unlocks.
   * Undefined where another has it. ENOENT where there is no directory. Never waits.
   */
  tryLock(path: string): Fd | undefined;
  /** True where the path still names the directory that is open: not removed, nor made again by another. */
  names(path: string, directory: Fd): boolean;
  /** Whether a folder is there, on whatever file system. */
  hasFolder(path: string): boolean;
  /** True where the path (or the nearest parent that exists) lies on a bpffs. */
  isBpffs(path: string): boolean;
  /**
   * Where nothing can be made at the path (or in the nearest parent that exists) because it is mounted read-only: the mount's
   * point. Undefined otherwise. EACCES where this process may make nothing there.
   */
  readOnlyMount(path: string): string | undefined;
}
