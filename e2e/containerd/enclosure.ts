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
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pause } from "../lib/pause.ts";

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

/** How scratch.ts names folders; the owner's process id follows. */
const prefix = "remora-test-";

/** `dir` is an existing folder of the caller's, below which the enclosure mounts; its name begins with a prefix and the process id. */
export async function enclose(dir: string): Promise<Enclosure> {
  const name = basename(dir);
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
      join(import.meta.dirname, "enclosure.sh"),
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
    enclosure.exec("sh", "-c", empty, "sh", name);
    holder.kill("SIGKILL");
    while (alive(pid)) pause(2);
  };
  process.prependListener("exit", dispose);
  const enclosure: Enclosure = {
    cgroup: `/${name}`,
    bpffs: join(dir, "bpffs"),
    exec(command, ...args) {
      return spawnSync(...inside(command, args), { encoding: "utf8", maxBuffer: 64 << 20, timeout: 60_000 });
    },
    spawn(command, args, options = {}) {
      return spawn(...inside(command, args), options);
    },
    [Symbol.dispose]: dispose,
  };
  sweep(enclosure);
  return enclosure;
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

// Everything but the namespace's first process and this shell ends; a cgroup stays busy for a moment after that.
const empty = `kill -KILL -1
tries=0
until ${removeCgroups("$1")} 2>/dev/null || [ $tries -eq 300 ]; do tries=$((tries + 1)); sleep 0.01; done`;

/** A shell command that removes the cgroups whose name begins so, in each hierarchy; true if none is left. */
function removeCgroups(start: string): string {
  const matching = `find /sys/fs/cgroup -type d -path "*/${start}*"`;
  return `{ ${matching} -delete; [ -z "$(${matching})" ]; }`;
}

/** Cgroups of enclosures whose process was killed. */
function sweep(enclosure: Enclosure): void {
  const owners = new Set<string>();
  for (const [, owner = ""] of enclosure
    .exec("find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", `${prefix}*`)
    .stdout.matchAll(/remora-test-(\d+)-/g))
    owners.add(owner);
  for (const owner of owners)
    if (!existsSync(`/proc/${owner}`)) enclosure.exec("sh", "-c", removeCgroups(`${prefix}${owner}-`));
}
