// SPDX-License-Identifier: Apache-2.0
/**
 * A scratch world for tests that run on the real kernel: a folder, a private bpffs, network namespaces, compiled
 * programs. `using world = scratch()` takes all of it away at the end of the block; so do the end of the process
 * and, where a run was killed, the next run: every name carries the process id of its owner.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { compileBpf as compileProgram } from "../../scripts/make/programs.ts";

export interface Namespace {
  name: string;
  path: string;
  /** Runs a command inside, returns its stdout; throws with its stderr. */
  exec(command: string, ...args: string[]): string;
}

export interface Scratch extends Disposable {
  dir: string;
  /** A bpffs of its own, mounted on first use. */
  bpffs(): string;
  namespace(): Namespace;
  /** A veth pair: `ifname` in each of the two, up, with the addresses given (`10.0.0.1/24`, `fd00::1/64`). */
  veth(a: VethEnd, b: VethEnd): void;
  /** Compiles a BPF program, from a file or from text; returns the object's path. */
  compile(source: string | { text: string; name?: string }, options?: { flags?: string[] }): string;
}
/**
 * Makes the ends of a pair know each other for good: a program that drops all drops the question for a neighbour as well, which
 * is asked again only a second later.
 */
export function acquaint(a: VethEnd, b: VethEnd): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    const [mac] = /[0-9a-f:]{17}/.exec(to.namespace.exec("ip", "-o", "link", "show", "dev", to.ifname)) ?? [""];
    for (const address of to.addresses ?? []) {
      const entry = ["neigh", "replace", address.replace(/\/.*/, ""), "lladdr", mac, "dev", from.ifname];
      from.namespace.exec("ip", ...entry, "nud", "permanent");
    }
  }
}

export interface VethEnd {
  namespace: Namespace;
  ifname: string;
  addresses?: string[];
}

const root = resolve(import.meta.dirname, "../..");
const prefix = "remora-test-";
const live = new Set<Scratch>();
let counter = 0;
let prepared = false;

/** Runs a command to its end and returns its stdout. Throws an error that carries command and stderr. */
export function run(command: string, ...args: string[]): string {
  const child = spawnSync(command, args, { encoding: "utf8", maxBuffer: 64 << 20, timeout: 60_000 });
  if (child.error) throw child.error;
  if (child.status !== 0)
    throw new Error(`${[command, ...args].join(" ")}: exit ${child.status ?? child.signal}: ${child.stderr.trim()}`);
  return child.stdout;
}

export function scratch(): Scratch {
  prepare();
  const dir = mkdtempSync(join(tmpdir(), `${prefix}${process.pid}-`));
  const namespaces: Namespace[] = [];
  let bpffs: string | undefined;
  const world: Scratch = {
    dir,
    bpffs() {
      if (bpffs === undefined) {
        const path = join(dir, "bpffs");
        mkdirSync(path);
        run("mount", "-t", "bpf", "-o", "mode=0700", "bpf", path);
        bpffs = path;
      }
      return bpffs;
    },
    namespace() {
      const name = `${prefix}${process.pid}-${++counter}`;
      run("ip", "netns", "add", name);
      const namespace: Namespace = {
        name,
        path: `/run/netns/${name}`,
        exec: (command, ...args) => run("ip", "netns", "exec", name, command, ...args),
      };
      namespaces.push(namespace);
      namespace.exec("ip", "link", "set", "lo", "up");
      return namespace;
    },
    veth(a, b) {
      run(
        "ip",
        "-n",
        a.namespace.name,
        "link",
        "add",
        a.ifname,
        "type",
        "veth",
        "peer",
        b.ifname,
        "netns",
        b.namespace.name,
      );
      for (const end of [a, b]) {
        for (const address of end.addresses ?? [])
          run(
            "ip",
            "-n",
            end.namespace.name,
            "addr",
            "add",
            address,
            "dev",
            end.ifname,
            ...(address.includes(":") ? ["nodad"] : []),
          );
        run("ip", "-n", end.namespace.name, "link", "set", end.ifname, "up");
      }
    },
    compile(source, options = {}) {
      const file = typeof source === "string" ? source : join(dir, `${source.name ?? `program-${++counter}`}.bpf.c`);
      if (typeof source !== "string") writeFileSync(file, source.text);
      const object = join(dir, basename(file).replace(/\.c$/, ".o"));
      compileBpf(file, object, options.flags);
      return object;
    },
    [Symbol.dispose]() {
      if (!live.delete(world)) return;
      for (const namespace of namespaces) spawnSync("ip", ["netns", "delete", namespace.name]);
      removeFolder(dir);
    },
  };
  live.add(world);
  return world;
}

/** Compiles one BPF C file as the library is compiled. */
export function compileBpf(source: string, object: string, flags: string[] = []): void {
  compileProgram(root, source, object, flags);
}

function prepare(): void {
  if (prepared) return;
  prepared = true;
  sweep();
  process.on("exit", disposeAll);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
}

function disposeAll(): void {
  for (const world of [...live]) world[Symbol.dispose]();
}

/** Takes away what a killed run left: names whose process is gone. */
function sweep(): void {
  const stale = (name: string): boolean => {
    const pid = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : Number.NaN;
    return Number.isInteger(pid) && !existsSync(`/proc/${pid}`);
  };
  for (const name of existsSync("/run/netns") ? readdirSync("/run/netns") : [])
    if (stale(name)) spawnSync("ip", ["netns", "delete", name]);
  for (const name of readdirSync(tmpdir())) if (stale(name)) removeFolder(join(tmpdir(), name));
}

/** Unmounts whatever is mounted below, innermost first, then removes the folder. */
function removeFolder(folder: string): void {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((point) => point.startsWith(`${folder}/`));
  for (const point of mounts.reverse()) spawnSync("umount", ["-l", point]);
  rmSync(folder, { recursive: true, force: true });
}
