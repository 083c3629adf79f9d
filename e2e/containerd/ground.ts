// SPDX-License-Identifier: Apache-2.0
/**
 * The ground that a container runtime stands on in a test, whichever it is: an enclosure (see enclosure.ts), Remora's
 * programs, the CNI plugins and a conflist, all below one folder.
 *
 * `REMORA_TEST_CLIENT` names the runtime (see e2e/clients/clients.ts); else it is the machine's own. The tests are the same.
 */
import type { ChildProcess, SpawnOptions, SpawnSyncReturns } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { AttachmentStatus } from "../../plugin/model.ts";
import { type Client, type ClientName, clients, fetchClient } from "../clients/clients.ts";
import { compileBpf, scratch } from "../lib/scratch.ts";
import { enclose } from "./enclosure.ts";

const root = resolve(import.meta.dirname, "../..");

/** One plugin of a conflist. */
export interface Plugin extends Record<string, unknown> {
  type: string;
}

export interface GroundOptions {
  plugins: Plugin[];
  /** Programs beside the library: `fixtures/NAME.bpf.c`, each with its manifest. There before a runtime asks for STATUS. */
  programs?: Record<string, string>;
  /** CNI plugins beside the distribution's, as shell scripts by type. `$here` is the ground's folder. */
  scripts?: Record<string, string>;
  /** The newest that the runtime knows if not given. */
  cniVersion?: string;
}

export interface Ground extends Disposable {
  /** Where everything is kept; the programs are in `programs`, the conflist in `net.d`, the CNI plugins in `bin`. */
  dir: string;
  programs: string;
  bpffs: string;
  /** Below the root of every cgroup hierarchy; taken away with the ground. Starts with a slash. */
  cgroup: string;
  /** The runtime's files; undefined where it is the machine's own. */
  client: Client | undefined;
  /** The conflist as it was written, with the paths of this ground filled in. */
  conflist: { cniVersion: string; name: string; plugins: Plugin[] };
  /** Runs a command in the ground's namespaces. */
  exec(command: string, ...args: string[]): SpawnSyncReturns<string>;
  /** Starts a command in the ground's namespaces. */
  spawn(command: string, args: string[], options?: SpawnOptions): ChildProcess;
  /** As `exec` and `spawn`, with the client's programs before the machine's. */
  execClient(command: string, ...args: string[]): SpawnSyncReturns<string>;
  spawnClient(command: string, args: string[], options?: SpawnOptions): ChildProcess;
  /** The command line tool on this ground, with its bpffs. */
  remora(command: string, ...args: string[]): SpawnSyncReturns<string>;
  /** `remora status --json`. Throws with what it said if it fails. */
  status(selector?: string): AttachmentStatus[];
}

const ipam = { type: "host-local", ranges: [[{ subnet: "10.77.0.0/24" }]], routes: [{ dst: "0.0.0.0/0" }] };
export const ptp = (): Plugin => ({ type: "ptp", ipMasq: false, ipam });
export const bridge = (): Plugin => ({
  type: "bridge",
  bridge: "cni0",
  isGateway: true,
  ipMasq: false,
  hairpinMode: true,
  ipam,
});
/** Remora's entry; `programDirs` and `bpffs` are the ground's. */
export const remora = (config: Record<string, unknown> = {}): Plugin => ({
  type: "remora",
  capabilities: { "io.kubernetes.cri.pod-annotations": true },
  ...config,
});

/** The client that the environment asks for. Throws for one that does not exist. */
function chosenClient(): Client | undefined {
  const name = process.env.REMORA_TEST_CLIENT;
  if (!name) return undefined;
  if (!(name in clients)) throw new Error(`REMORA_TEST_CLIENT=${name}: there are ${Object.keys(clients).join(", ")}`);
  return fetchClient(name as ClientName);
}

/** @param client undefined for the machine's own. */
export async function layGround(options: GroundOptions, client: Client | undefined = chosenClient()): Promise<Ground> {
  const world = scratch();
  try {
    return await lay(world.dir, options, client, world);
  } catch (error) {
    world[Symbol.dispose]();
    throw error;
  }
}

async function lay(
  dir: string,
  options: GroundOptions,
  client: Client | undefined,
  world: Disposable,
): Promise<Ground> {
  const programs = installPrograms(dir);
  for (const [name, manifest] of Object.entries(options.programs ?? {})) addProgram({ programs }, name, manifest);
  installPlugins(dir, client);
  for (const [type, script] of Object.entries(options.scripts ?? {}))
    writeFileSync(join(dir, "bin", type), `#!/bin/sh\nhere=${dir}\n${script}\n`, { mode: 0o755, flag: "wx" });
  const enclosure = await enclose(dir);
  try {
    const { bpffs } = enclosure;
    if (client !== undefined && client.mounts.length > 0) {
      writeFileSync(join(dir, "fstab"), `${client.mounts.join("\n")}\n`);
      const mounted = enclosure.exec("mount", "--all", "--fstab", join(dir, "fstab"));
      if (mounted.status !== 0) throw new Error(`the client's C library: ${mounted.stderr}`);
    }
    const conflist = {
      cniVersion: options.cniVersion ?? client?.cniVersion ?? "1.0.0",
      name: "pods",
      plugins: options.plugins.map((plugin) =>
        plugin.type === "remora" ? { programDirs: [programs], bpffs: join(bpffs, "remora"), ...plugin } : plugin,
      ),
    };
    mkdirSync(join(dir, "net.d"));
    writeFileSync(join(dir, "net.d/10-pods.conflist"), JSON.stringify(conflist, null, 2));

    const launcher = join(root, "dist/remora");
    const tool = (command: string, ...args: string[]) =>
      enclosure.exec(launcher, command, ...args, "--bpffs", join(bpffs, "remora"));
    const [first = "env", ...before] = client?.environment ?? [];
    return {
      dir,
      programs,
      bpffs,
      cgroup: enclosure.cgroup,
      client,
      conflist,
      exec: enclosure.exec,
      spawn: enclosure.spawn,
      execClient: (...command) => enclosure.exec(first, ...before, ...command),
      spawnClient: (command, args, options) => enclosure.spawn(first, [...before, command, ...args], options),
      remora: tool,
      status(selector) {
        const result = tool("status", ...(selector === undefined ? [] : [selector]), "--json");
        if (result.status !== 0) throw new Error(`remora status: ${result.stdout}${result.stderr}`);
        return (JSON.parse(result.stdout) as { attachments: AttachmentStatus[] }).attachments;
      },
      [Symbol.dispose]() {
        enclosure[Symbol.dispose]();
        world[Symbol.dispose]();
      },
    };
  } catch (error) {
    enclosure[Symbol.dispose]();
    throw error;
  }
}

/** The program library, copied so that a test can add to it and spoil it. */
function installPrograms(dir: string): string {
  const programs = join(dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  const built = join(root, "dist/programs");
  if (existsSync(built)) cpSync(built, programs, { recursive: true });
  return programs;
}

/** Compiles `fixtures/NAME.bpf.c` into the program directory. */
export function addProgram({ programs }: Pick<Ground, "programs">, name: string, manifest?: string): void {
  compileBpf(join(import.meta.dirname, `fixtures/${name}.bpf.c`), join(programs, `${name}.bpf.o`));
  if (manifest !== undefined) writeFileSync(join(programs, `${name}.yaml`), manifest, { mode: 0o644 });
}

/** The CNI bin folder: links to the distribution's plugins and to our launcher, which finds its runtime beside itself. */
function installPlugins(dir: string, client: Client | undefined): void {
  const bin = join(dir, "bin");
  mkdirSync(bin);
  const distribution = client?.plugins ?? ["/usr/lib/cni", "/opt/cni/bin"].find((folder) => existsSync(folder));
  if (distribution === undefined) throw new Error("no CNI plugins: install the package containernetworking-plugins");
  for (const name of readdirSync(distribution)) symlinkSync(join(distribution, name), join(bin, name));
  symlinkSync(join(root, "dist/remora"), join(bin, "remora"));
}
