// SPDX-License-Identifier: Apache-2.0
/**
 * A node to test on: a containerd of our own with everything it needs below one folder and in namespaces of its own
 * (see enclosure.ts), a conflist, and pods made over the CRI as the kubelet makes them. Up in about a second.
 *
 *     using node = await startNode({ plugins: [ptp(), remora({ chain: [{ program: "count" }] })] });
 *     const pod = await node.runPod({ name: "web", annotations: { "remora.io/programs": "acl" } });
 *     await pod.exec("ping", "-c", "1", "10.77.0.1");
 *     await pod.remove();
 */
import type { ChildProcess, SpawnOptions, SpawnSyncReturns } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { AttachmentStatus } from "../../plugin/model.ts";
import { scratch } from "../lib/scratch.ts";
import { type Cri, connect } from "./cri.ts";
import { type Enclosure, enclose } from "./enclosure.ts";
import { buildImage, imageName } from "./image.ts";
import { makePod, type Pod, type PodSpec } from "./pod.ts";

const root = resolve(import.meta.dirname, "../..");

/** One plugin of a conflist. */
export interface Plugin extends Record<string, unknown> {
  type: string;
}

export interface NodeOptions {
  plugins: Plugin[];
  cniVersion?: string;
}

export interface Node extends Disposable {
  /** Where the node keeps its files; the programs are in `programs`, the container runtime writes `containerd.log`. */
  dir: string;
  programs: string;
  bpffs: string;
  cri: Cri;
  /** The conflist as it was written, with the node's paths filled in. */
  conflist: { cniVersion: string; name: string; plugins: Plugin[] };
  runPod(spec: PodSpec): Promise<Pod>;
  /** Runs a command in the node's namespaces. */
  exec(command: string, ...args: string[]): SpawnSyncReturns<string>;
  /** The same, at work beside the test. What is not waited for ends with the node. */
  spawn(command: string, args: string[], options?: SpawnOptions): ChildProcess;
  /** The command line tool on this node, with its bpffs. */
  remora(command: string, ...args: string[]): SpawnSyncReturns<string>;
  /** `remora status --json`. Throws with what it said if it fails. */
  status(selector?: string): AttachmentStatus[];
  /** Kills containerd without a warning. Its shims and the pods stay. */
  killRuntime(): Promise<void>;
  startRuntime(): Promise<void>;
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
/** Remora's entry; `programDirs` and `bpffs` are the node's. */
export const remora = (config: Record<string, unknown> = {}): Plugin => ({
  type: "remora",
  capabilities: { "io.kubernetes.cri.pod-annotations": true },
  ...config,
});

/** Starts a node. Throws with the end of containerd's log if it does not come up. */
export async function startNode(options: NodeOptions): Promise<Node> {
  const world = scratch();
  try {
    return await start(world.dir, options, world);
  } catch (error) {
    world[Symbol.dispose]();
    throw error;
  }
}

async function start(dir: string, options: NodeOptions, world: Disposable): Promise<Node> {
  const programs = installPrograms(dir);
  installPlugins(dir);
  const enclosure = await enclose(dir);
  try {
    const bpffs = enclosure.bpffs;
    const conflist = {
      cniVersion: options.cniVersion ?? "1.0.0",
      name: "pods",
      plugins: options.plugins.map((plugin) =>
        plugin.type === "remora" ? { programDirs: [programs], bpffs: join(bpffs, "remora"), ...plugin } : plugin,
      ),
    };
    mkdirSync(join(dir, "net.d"));
    writeFileSync(join(dir, "net.d/10-pods.conflist"), JSON.stringify(conflist, null, 2));
    writeFileSync(join(dir, "config.toml"), runtimeConfig(dir));
    const runtime = new Runtime(dir, enclosure);
    await runtime.start();
    await importImage(dir, enclosure, runtime);

    const launcher = join(root, "dist/remora");
    const tool = (command: string, ...args: string[]) =>
      enclosure.exec(launcher, command, ...args, "--bpffs", join(bpffs, "remora"));
    let pods = 0;
    return {
      dir,
      programs,
      bpffs,
      conflist,
      get cri() {
        return runtime.cri;
      },
      runPod: (spec) => makePod(() => runtime.cri, sandboxConfig(dir, enclosure.cgroup, { ...spec }, ++pods)),
      exec: enclosure.exec,
      spawn: enclosure.spawn,
      remora: tool,
      status(selector) {
        const result = tool("status", ...(selector === undefined ? [] : [selector]), "--json");
        if (result.status !== 0) throw new Error(`remora status: ${result.stdout}${result.stderr}`);
        return (JSON.parse(result.stdout) as { attachments: AttachmentStatus[] }).attachments;
      },
      killRuntime: () => runtime.kill(),
      startRuntime: () => runtime.start(),
      [Symbol.dispose]() {
        runtime.cri.close();
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

/** The CNI bin folder: links to the distribution's plugins and to our launcher, which finds its runtime beside itself. */
function installPlugins(dir: string): void {
  const bin = join(dir, "bin");
  mkdirSync(bin);
  const distribution = ["/usr/lib/cni", "/opt/cni/bin"].find((folder) => existsSync(folder));
  if (distribution === undefined) throw new Error("no CNI plugins: install the package containernetworking-plugins");
  for (const name of readdirSync(distribution)) symlinkSync(join(distribution, name), join(bin, name));
  symlinkSync(join(root, "dist/remora"), join(bin, "remora"));
}

function sandboxConfig(dir: string, cgroupParent: string, spec: PodSpec, serial: number) {
  return {
    metadata: { name: spec.name, namespace: spec.namespace ?? "default", uid: spec.uid ?? randomUUID(), attempt: 0 },
    hostname: spec.name,
    logDirectory: join(dir, "logs", `${serial}-${spec.name}`),
    dnsConfig: { servers: ["127.0.0.1"] },
    labels: {},
    annotations: spec.annotations ?? {},
    linux: { cgroupParent },
  };
}

async function importImage(dir: string, enclosure: Enclosure, runtime: Runtime): Promise<void> {
  const archive = join(dir, "image.tar");
  writeFileSync(archive, buildImage(dir));
  const imported = enclosure.exec(
    "ctr",
    ...["--address", runtime.socket, "--namespace", "k8s.io"],
    ...["images", "import", "--snapshotter", "native", archive],
  );
  if (imported.status !== 0) throw new Error(`ctr images import: ${imported.stderr}`);
  // The CRI plugin learns of an imported image by an event.
  await until(`the image ${imageName}`, async () => {
    const { images } = await runtime.cri.call("ListImages", {});
    return images.some((image) => image.repoTags.includes(imageName));
  });
}

/** One containerd, which can be killed and started again. */
class Runtime {
  readonly socket: string;
  cri: Cri;
  readonly #dir: string;
  readonly #enclosure: Enclosure;
  #child: ChildProcess | undefined;

  constructor(dir: string, enclosure: Enclosure) {
    this.#dir = dir;
    this.#enclosure = enclosure;
    this.socket = join(dir, "containerd.sock");
    this.cri = connect(this.socket);
  }

  async start(): Promise<void> {
    this.cri.close();
    this.cri = connect(this.socket);
    const log = openSync(join(this.#dir, "containerd.log"), "a");
    // The shell leaves containerd's process id as the enclosure sees it.
    const command = `echo $$ >"$1/containerd.pid"; exec containerd --config "$1/config.toml"`;
    const child = this.#enclosure.spawn("sh", ["-c", command, "sh", this.#dir], { stdio: ["ignore", log, log] });
    this.#child = child;
    try {
      await until("containerd", async () => {
        if (child.exitCode !== null) throw new Error(`containerd ended with status ${child.exitCode}`);
        const { status } = await this.cri.call("Status", { verbose: false }, 1);
        return status.conditions.every((condition) => condition.status);
      });
    } catch (error) {
      const text = readFileSync(join(this.#dir, "containerd.log"), "utf8");
      throw new Error(`${(error as Error).message}\n${text.split("\n").slice(-15).join("\n")}`);
    }
  }

  async kill(): Promise<void> {
    const gone = new Promise((resolve) => this.#child?.once("exit", resolve));
    this.#enclosure.exec("kill", "-KILL", readFileSync(join(this.#dir, "containerd.pid"), "utf8").trim());
    await gone;
  }
}

/** Asks every 20 ms; the deadline only bounds a failure. An answer of the last second's error explains it. */
async function until(what: string, ask: () => Promise<boolean>): Promise<void> {
  let last: unknown;
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; await sleep(20))
    try {
      if (await ask()) return;
    } catch (error) {
      last = error;
      if (/ended with status/.test(String(error))) break;
    }
  throw new Error(`${what} did not come up${last === undefined ? "" : `: ${last}`}`);
}

/** containerd 1.6 and later. What lies in /run is on the enclosure's own tmpfs. */
const runtimeConfig = (dir: string): string => `version = 2
root = "/run/containerd-root"
state = "/run/containerd-state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "${dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${imageName}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  # Works without CAP_SYS_RESOURCE, AppArmor and hugetlb cgroups.
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${dir}/bin"
    conf_dir = "${dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`;
