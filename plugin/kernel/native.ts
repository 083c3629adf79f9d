// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel port on the real kernel: bpf(2) through the addon, bpffs through node:fs. What fails becomes a
 * KernelError that says what was tried, on what, why it failed and, where that is known, what to do about it.
 */
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { dirname } from "node:path";
import { loadAddon } from "./addon.ts";
import { type HookPlace, KernelError, type KernelPort, type NamespaceIdentity, type ObjectInfo } from "./port.ts";

/** What the addon offers: the port's own operations, less what is done here. */
type Addon = Omit<
  KernelPort,
  | "inspectObject"
  | "namespaceIdentity"
  | "makeDirectory"
  | "removePin"
  | "renamePin"
  | "names"
  | "removeDirectory"
  | "listDirectory"
  | "modified"
  | "hasFolder"
  | "isBpffs"
  | "readOnlyMount"
> & {
  inspectObject(object: Buffer): Omit<ObjectInfo, "sha256">;
  /** Throws where the path names no network namespace. */
  namespaceIdentity(netns: string): NamespaceIdentity;
};

/** BPF_FS_MAGIC of linux/magic.h. */
const bpffsMagic = 0xcafe4a11;

/** What to do about it, by operation and errno; `*` stands for every operation that has no word of its own. */
const hints: Record<string, Record<string, string | undefined>> = {
  "*": {
    EPERM: "it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN, in the initial user namespace",
    EACCES: "it takes root",
    ENOSYS: "this kernel has no bpf(2)",
    EROFS: "the bpffs is mounted read-only",
    EMFILE: "the process has no file descriptor left: raise its limit (ulimit -n)",
  },
  // The verifier's, of a program.
  loadStage: { EACCES: undefined },
  attachTcx: {
    EINVAL: "TCX needs Linux 6.6",
    ENODEV: "the interface is gone",
    ERANGE: "the kernel takes 64 programs on one hook",
  },
  isBpffs: {
    EPERM: "a bpffs takes no dots in names, and this one may be root's alone",
  },
  attachFilter: {
    ENODEV: "the interface is gone",
  },
  pin: {
    EPERM: "pins need a bpffs: mount -t bpf bpf /sys/fs/bpf",
    EINVAL: "pins need a bpffs: mount -t bpf bpf /sys/fs/bpf",
  },
  updateLink: { ENOLINK: "the link's device is gone" },
  detachLink: { ENOLINK: "the link's device is gone" },
};

const placeText = ({ ifindex, netns, direction }: HookPlace): string =>
  `interface ${ifindex} of ${netns ?? "the host"}, ${direction}`;

/** What was not done, for the message of a failure. An addon's own message about an object needs no such words. */
const undone: { [Name in keyof KernelPort]: (...args: Parameters<KernelPort[Name]>) => string } = {
  inspectObject: () => "",
  loadStage: () => "",
  createMap: (spec) => `map "${spec.name}" (${spec.type}, ${spec.maxEntries} entries) was not created`,
  mapInfo: () => "the map's description was not read",
  updateMap: (_, key) => `key ${key.toString("hex")} was not written`,
  deleteFromMap: (_, key) => `key ${key.toString("hex")} was not removed`,
  lookupMap: (_, key) => `key ${key.toString("hex")} was not read`,
  mapEntries: () => "the map's entries were not read",
  readMap: () => "the map was not read",
  mapTypes: () => "the map's types were not read",
  openMapById: (id) => `map ${id} was not opened`,
  openProgramById: (id) => `program ${id} was not opened`,
  awaitPrograms: () => "running programs were not waited for",
  openEvents: () => "the ring buffer was not opened",
  readEvents: () => "the ring buffer was not read",
  closeEvents: () => "the ring buffer was not closed",
  freezeMap: () => "the map was not frozen",
  programInfo: () => "the program's description was not read",
  testRun: (request) => `a packet of ${request.packet.length} bytes was not run`,
  attachTcx: (request) => `${placeText(request)}: no program was attached`,
  listTcx: (place) => `${placeText(place)}: the programs were not listed`,
  linkInfo: () => "the link's description was not read",
  updateLink: () => "the link kept its program",
  detachLink: () => "the link was not detached",
  attachFilter: (place) => `${placeText(place)}: no filter was added`,
  replaceFilter: (place) => `${placeText(place)}: the filter kept its program`,
  hasQdisc: (place) => `${placeText(place)}: the qdisc was not looked for`,
  listFilters: (place) => `${placeText(place)}: the filters were not listed`,
  findFilter: (place, { priority }) => `${placeText(place)}: the filter at priority ${priority} was not looked for`,
  detachFilter: (place, { priority }) => `${placeText(place)}: the filter at priority ${priority} was not removed`,
  removeQdisc: (place) => `${placeText(place)}: the clsact qdisc was not removed`,
  findInterface: (netns, ifname) => `interface "${ifname}" of ${netns} was not found`,
  interfaceAddresses: (netns, ifname) => `the addresses of interface "${ifname}" of ${netns} were not read`,
  findPeer: (netns, ifname) => `the other end of interface "${ifname}" of ${netns} was not found`,
  namespaceIdentity: (netns) => `namespace ${netns} was not read`,
  pin: (_, path) => `${path} was not pinned`,
  openPin: (path) => `pin ${path} was not opened`,
  close: (fd) => `descriptor ${fd} was not closed`,
  makeDirectory: (path) => `${path} was not made`,
  removePin: (path) => `${path} was not removed`,
  renamePin: (from, to) => `${from} was not renamed to ${to}`,
  removeDirectory: (path) => `${path} was not removed`,
  tryLock: (path) => `${path} was not locked`,
  names: (path) => `${path} was not read`,
  listDirectory: (path) => `${path} was not listed`,
  modified: (path) => `${path} was not read`,
  hasFolder: (path) => `${path} was not looked for`,
  isBpffs: (path) => `${path} was not read`,
  readOnlyMount: (path) => `${path} cannot be written`,
};

/** Every field, so that the addon need not ask what is there. */
const emptyContext = { mark: 0, priority: 0, ifindex: 0, cb: [], gsoSegs: 0, gsoSize: 0, wireLen: 0 };

/** Loads the addon and returns the port. Throws what `loadAddon` throws. */
export function createNativeKernel(): KernelPort {
  const addon = loadAddon() as Addon;
  return explained({
    ...addon,
    inspectObject: (object) => ({
      ...addon.inspectObject(object),
      sha256: createHash("sha256").update(object).digest("hex"),
    }),
    testRun: (request) => addon.testRun({ repeat: 1, ...request, context: { ...emptyContext, ...request.context } }),
    namespaceIdentity: (netns) =>
      unless(["ENOENT", "ENOTDIR", "EINVAL"], undefined, () => addon.namespaceIdentity(netns)),

    makeDirectory: (path) => {
      mkdirSync(path, { mode: 0o700 });
    },
    removePin: (path) => unless(["ENOENT"], undefined, () => unlinkSync(path)),
    renamePin: (from, to) => renameSync(from, to),
    tryLock: (path) => unless(["EWOULDBLOCK", "EAGAIN"], undefined, () => addon.tryLock(path)),
    names: (path, directory) => {
      const there = lstatSync(path, { bigint: true, throwIfNoEntry: false });
      const open = fstatSync(directory, { bigint: true });
      return there !== undefined && there.ino === open.ino && there.dev === open.dev;
    },
    removeDirectory: (path) => unless(["ENOENT"], undefined, () => rmdirSync(path)),
    listDirectory: (path) =>
      unless(["ENOENT"], [], () =>
        readdirSync(path, { withFileTypes: true }).map((entry) => ({
          name: entry.name,
          directory: entry.isDirectory(),
        })),
      ),
    modified: (path) => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs,
    hasFolder: (path) =>
      unless(["ENOENT", "ENOTDIR"], false, () => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false),
    isBpffs,
    readOnlyMount,
  });
}

function isBpffs(path: string): boolean {
  const type = unless(["ENOENT"], undefined, () => statfsSync(path).type);
  if (type !== undefined) return type === bpffsMagic;
  const parent = dirname(path);
  return parent !== path && isBpffs(parent);
}

function readOnlyMount(path: string): string | undefined {
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EROFS") return mountPoint(realpathSync(path));
    const parent = dirname(path);
    if (code === "ENOENT" && parent !== path) return readOnlyMount(parent);
    throw error;
  }
}

/** The highest folder above the path, or it itself, of the same file system. */
function mountPoint(path: string): string {
  const parent = dirname(path);
  return parent === path || statSync(parent).dev !== statSync(path).dev ? path : mountPoint(parent);
}

/** The value of `run`, or `fallback` where it fails with one of these errnos: there was nothing to be done. */
function unless<T>(codes: string[], fallback: T, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (codes.includes((error as NodeJS.ErrnoException).code ?? "")) return fallback;
    throw error;
  }
}

/** The same port, whose failures are KernelErrors. */
function explained(port: KernelPort): KernelPort {
  const operations = Object.entries(port) as [keyof KernelPort, (...args: unknown[]) => unknown][];
  const wrapped = operations.map(([operation, run]) => [
    operation,
    (...args: unknown[]) => {
      try {
        return run(...args);
      } catch (error) {
        throw kernelError(operation, (undone[operation] as (...args: unknown[]) => string)(...args), error);
      }
    },
  ]);
  return Object.fromEntries(wrapped) as KernelPort;
}

/** What the addon throws (`reason` is the errno's own text), and node:fs (no `reason`). */
interface Thrown extends Error {
  code?: string;
  reason?: string;
  log?: string;
}

function kernelError(operation: keyof KernelPort, subject: string, thrown: unknown): unknown {
  const { code, reason, message, log } = thrown as Thrown;
  if (code === undefined) return thrown; // no failure of the kernel, but a fault of ours
  if (code === "EREFUSED") return new KernelError(operation, code, message, log);
  // node:fs writes code, text, call and path into its message: the text is what is missing here.
  const why = reason === undefined ? message.replace(/^E[A-Z0-9]+: (.*?),.*$/, "$1") : message;
  const own = hints[operation] ?? {};
  const hint = code in own ? own[code] : hints["*"]?.[code];
  const words = `${subject}${subject === "" ? "" : ": "}${why}${hint === undefined ? "" : ` (${hint})`}`;
  return new KernelError(operation, code, words, log);
}
