// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel port on the real kernel: bpf(2) through the addon, bpffs through node:fs. What fails becomes a
 * KernelError that says what was tried, on what, why it failed and, where that is known, what to do about it.
 */
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, rmdirSync, statfsSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import { loadAddon } from "./addon.ts";
import {
  KernelError,
  type KernelPort,
  type MapSpec,
  type NamespaceIdentity,
  type ObjectInfo,
  type TestRunRequest,
} from "./port.ts";

/** What the addon offers: the port's own operations, less what is done here. */
type Addon = Omit<
  KernelPort,
  | "inspectObject"
  | "namespaceIdentity"
  | "makeDirectory"
  | "removePin"
  | "removeDirectory"
  | "listDirectory"
  | "modified"
  | "isBpffs"
> & {
  inspectObject(object: Buffer): Omit<ObjectInfo, "sha256">;
  /** Throws where the path names no network namespace. */
  namespaceIdentity(netns: string): NamespaceIdentity;
};

/** BPF_FS_MAGIC of linux/magic.h. */
const bpffsMagic = 0xcafe4a11;

/** What to do about it, by operation and errno; `*` stands for every operation. */
const hints: Record<string, Record<string, string>> = {
  "*": {
    EPERM: "it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN, in the initial user namespace",
    ENOSYS: "this kernel has no bpf(2)",
    EMFILE: "the process has no file descriptor left: raise its limit (ulimit -n)",
  },
  attachTcx: {
    EINVAL: "TCX needs Linux 6.6",
    ENODEV: "the interface is gone",
    ERANGE: "the kernel takes 64 programs on one hook",
  },
  pin: {
    EPERM: "pins need a bpffs: mount -t bpf bpf /sys/fs/bpf",
    EINVAL: "pins need a bpffs: mount -t bpf bpf /sys/fs/bpf",
  },
  updateLink: { ENOLINK: "the link's device is gone" },
  detachLink: { ENOLINK: "the link's device is gone" },
};

interface AddonError extends Error {
  code?: string;
  /** The errno's own text. */
  reason?: string;
  log?: string;
}

/** Runs one operation; a failure says `what` and why. */
function attempt<T>(operation: string, what: () => string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    const { code, reason, message, log } = error as AddonError;
    if (code === undefined) throw error;
    if (code === "EREFUSED") throw new KernelError(operation, code, message, log);
    // node:fs puts code, text and call into one message; the addon gives a reason of its own only where it knows more.
    const why = reason === undefined ? message.replace(/^E[A-Z0-9]+: (.*?),.*$/, "$1") : message;
    const hint = hints[operation]?.[code] ?? hints["*"]?.[code];
    const subject = operation === "loadStage" ? "" : `${what()}: `; // its messages name program and function
    throw new KernelError(operation, code, `${subject}${why}${hint === undefined ? "" : ` (${hint})`}`, log);
  }
}

const errnoOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/** The same, where some errnos mean that nothing was to be done. */
function unless<T>(codes: string[], fallback: T, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (codes.includes(errnoOf(error) ?? "")) return fallback;
    throw error;
  }
}

/** Loads the addon and returns the port. Throws what `loadAddon` throws. */
export function createNativeKernel(): KernelPort {
  const addon = loadAddon() as Addon;
  return {
    inspectObject: (object) =>
      attempt(
        "inspectObject",
        () => "the object",
        () => ({ ...addon.inspectObject(object), sha256: createHash("sha256").update(object).digest("hex") }),
      ),
    loadStage: (request) =>
      attempt(
        "loadStage",
        () => request.name,
        () => addon.loadStage(request),
      ),

    createMap: (spec: MapSpec) =>
      attempt(
        "createMap",
        () => `map "${spec.name}" (${spec.type}, ${spec.maxEntries} entries) was not created`,
        () => addon.createMap(spec),
      ),
    mapInfo: (map) =>
      attempt(
        "mapInfo",
        () => "the map's description was not read",
        () => addon.mapInfo(map),
      ),
    updateMap: (map, key, value) =>
      attempt(
        "updateMap",
        () => `key ${key.toString("hex")} was not written`,
        () => addon.updateMap(map, key, value),
      ),
    lookupMap: (map, key) =>
      attempt(
        "lookupMap",
        () => `key ${key.toString("hex")} was not read`,
        () => addon.lookupMap(map, key),
      ),
    freezeMap: (map) =>
      attempt(
        "freezeMap",
        () => "the map was not frozen",
        () => addon.freezeMap(map),
      ),
    programInfo: (program) =>
      attempt(
        "programInfo",
        () => "the program's description was not read",
        () => addon.programInfo(program),
      ),
    testRun: (request: TestRunRequest) =>
      attempt(
        "testRun",
        () => `a packet of ${request.packet.length} bytes was not run`,
        () =>
          addon.testRun({
            ...request,
            context: {
              mark: 0,
              priority: 0,
              ifindex: 0,
              cb: [],
              gsoSegs: 0,
              gsoSize: 0,
              wireLen: 0,
              ...request.context,
            },
            repeat: request.repeat ?? 1,
          }),
      ),

    attachTcx: (request) =>
      attempt(
        "attachTcx",
        () => `interface ${request.ifindex} of ${request.netns}, ${request.direction}: no program was attached`,
        () => addon.attachTcx(request),
      ),
    linkInfo: (link) =>
      attempt(
        "linkInfo",
        () => "the link's description was not read",
        () => addon.linkInfo(link),
      ),
    updateLink: (link, program) =>
      attempt(
        "updateLink",
        () => "the link kept its program",
        () => addon.updateLink(link, program),
      ),
    detachLink: (link) =>
      attempt(
        "detachLink",
        () => "the link was not detached",
        () => addon.detachLink(link),
      ),

    findInterface: (netns, ifname) =>
      attempt(
        "findInterface",
        () => `interface "${ifname}" of ${netns} was not found`,
        () => addon.findInterface(netns, ifname),
      ),
    namespaceIdentity: (netns) =>
      attempt(
        "namespaceIdentity",
        () => `namespace ${netns} was not read`,
        () => unless(["ENOENT", "ENOTDIR", "EINVAL"], undefined, () => addon.namespaceIdentity(netns)),
      ),

    pin: (fd, path) =>
      attempt(
        "pin",
        () => `${path} was not pinned`,
        () => addon.pin(fd, path),
      ),
    openPin: (path) =>
      attempt(
        "openPin",
        () => `pin ${path} was not opened`,
        () => addon.openPin(path),
      ),
    close: (fd) =>
      attempt(
        "close",
        () => `descriptor ${fd} was not closed`,
        () => addon.close(fd),
      ),

    makeDirectory: (path) =>
      attempt(
        "makeDirectory",
        () => `${path} was not made`,
        () => {
          mkdirSync(path, { mode: 0o700 });
        },
      ),
    removePin: (path) =>
      attempt(
        "removePin",
        () => `${path} was not removed`,
        () => unless(["ENOENT"], undefined, () => unlinkSync(path)),
      ),
    removeDirectory: (path) =>
      attempt(
        "removeDirectory",
        () => `${path} was not removed`,
        () => unless(["ENOENT"], undefined, () => rmdirSync(path)),
      ),
    listDirectory: (path) =>
      attempt(
        "listDirectory",
        () => `${path} was not listed`,
        () =>
          unless(["ENOENT"], [], () =>
            readdirSync(path, { withFileTypes: true }).map((entry) => ({
              name: entry.name,
              directory: entry.isDirectory(),
            })),
          ),
      ),
    modified: (path) =>
      attempt(
        "modified",
        () => `${path} was not read`,
        () => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs,
      ),
    isBpffs: (path) =>
      attempt(
        "isBpffs",
        () => `${path} was not read`,
        () => isBpffs(path),
      ),
  };
}

function isBpffs(path: string): boolean {
  const type = unless(["ENOENT"], undefined, () => statfsSync(path).type);
  if (type !== undefined) return type === bpffsMagic;
  const parent = dirname(path);
  return parent !== path && isBpffs(parent);
}
