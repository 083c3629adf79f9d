// SPDX-License-Identifier: Apache-2.0
/**
 * An enclosure: private mount, network and process namespaces, in which a container runtime can run as root without
 * a trace outside. Bridges, routes, mounts, bpffs pins and named namespaces made inside exist only inside.
 *
 * Its first process reads from a pipe of ours and ends with it, and the kernel kills a process namespace together with
 * its first process. So however this process ends, by `kill -9` too, everything inside ends as well; what is left
 * then, empty cgroups, is taken away by the next one (the folder: see scratch.ts).
 */
import { type ChildProcess, type SpawnOptions, type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { basename, join } from "node:path";

export interface Enclosure extends Disposable {
  /** Below the root of every cgroup hierarchy; taken away with the enclosure. Starts with a slash. */
  cgroup: string;
  /** The enclosure's own bpffs. */
  bpffs: string;
  /** Runs a command inside, to its end. */
  exec(command: string, ...args: string[]): SpawnSyncReturns<string>;
  /** Starts a command inside. */
  spawn(command: string, args: string[], options?: SpawnOptions): ChildProcess;
}

// `/proc/self/stat` is read before the new /proc is mounted: it names the shell as the outside sees it. In a chroot
// that is no mount point, runc could neither change propagation nor pivot: bound onto itself it is one. SIGCHLD is
// ignored so that the kernel reaps what is orphaned to the first process.
const setup = `set -e
dir=$1
read -r pid rest </proc/self/stat
if mount --make-rprivate / 2>/dev/null; then enter=; else
  mkdir -p "$dir/root" && mount --rbind / "$dir/root" && mount --make-rprivate "$dir/root" && enter="chroot $dir/root"
fi
$enter sh -e -c '
  mount -t proc proc /proc
  mount -t tmpfs -o mode=0755 tmpfs /run
  mount -t tmpfs -o mode=0755 tmpfs /var/lib
  mkdir -p "$1/bpffs" && mount -t bpf -o mode=0700 bpf "$1/bpffs"
  ip link set lo up
' sh "$dir"
echo "$pid"
trap "" CHLD
exec $enter cat >/dev/null`;

/** `dir` is an existing folder of the caller's, below which the enclosure mounts; its name begins with a prefix and the process id. */
export async function enclose(dir: string): Promise<Enclosure> {
  sweepCgroups();
  const cgroup = basename(dir);
  const holder = spawn(
    "unshare",
    [
      "--mount",
      "--net",
      "--pid",
      "--fork",
      "--kill-child",
      "--propagation",
      "unchanged",
      "--",
      "sh",
      "-c",
      setup,
      "sh",
      dir,
    ],
    { stdio: ["pipe", "pipe", "pipe"], cwd: "/" },
  );
  const pid = await ready(holder);
  const inside = (command: string, args: string[]): [string, string[]] => [
    "nsenter",
    ["--target", pid, "--mount", "--net", "--pid", "--root", "--wdns=/", "--", command, ...args],
  ];
  let open = true;
  const dispose = (): void => {
    if (!open) return;
    open = false;
    process.off("exit", dispose);
    holder.kill("SIGKILL");
    while (alive(pid)) pause(2);
    removeCgroups(cgroup);
  };
  process.prependListener("exit", dispose);
  return {
    cgroup: `/${cgroup}`,
    bpffs: join(dir, "bpffs"),
    exec(command, ...args) {
      return spawnSync(...inside(command, args), { encoding: "utf8", maxBuffer: 64 << 20, timeout: 60_000 });
    },
    spawn(command, args, options = {}) {
      return spawn(...inside(command, args), options);
    },
    [Symbol.dispose]: dispose,
  };
}

/** Resolves with the first process's id when everything is mounted. */
function ready(holder: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let stderr = "";
    holder.stderr?.on("data", (data) => {
      stderr += data;
    });
    holder.stdout?.once("data", (data) => resolve(String(data).trim()));
    holder.once("error", reject);
    holder.once("exit", (status) => reject(new Error(`cannot set up namespaces (exit ${status}): ${stderr.trim()}`)));
  });
}

/** The first process of a namespace becomes a zombie only after all others in it are gone. */
function alive(pid: string): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) !== "Z";
  } catch {
    return false;
  }
}

function pause(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

const hierarchies = "/sys/fs/cgroup";

/** The folders in which cgroups of that name can lie: the one hierarchy of v2, each one of v1. */
function cgroupRoots(): string[] {
  if (!existsSync(hierarchies)) return [];
  if (existsSync(join(hierarchies, "cgroup.procs"))) return [hierarchies];
  return readdirSync(hierarchies).map((name) => join(hierarchies, name));
}

function removeCgroups(name: string): void {
  const remove = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true }))
      if (entry.isDirectory()) remove(join(folder, entry.name));
    // A cgroup stays busy for a moment after its last process.
    for (let tries = 100; ; tries--)
      try {
        rmdirSync(folder);
        return;
      } catch (error) {
        if (tries === 0 || (error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
        pause(10);
      }
  };
  for (const root of cgroupRoots()) if (existsSync(join(root, name))) remove(join(root, name));
}

/** Cgroups of enclosures whose process was killed. */
function sweepCgroups(): void {
  const names = new Set(cgroupRoots().flatMap((root) => (existsSync(root) ? readdirSync(root) : [])));
  for (const name of names) {
    const owner = /^remora-test-(\d+)-/.exec(name)?.[1];
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) removeCgroups(name);
  }
}
