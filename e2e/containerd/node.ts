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
import type { ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Cri, connect } from "./cri.ts";
import { type Ground, type GroundOptions, layGround } from "./ground.ts";
import { buildImage, imageName } from "./image.ts";
import { makePod, type Pod, type PodSpec } from "./pod.ts";

export { addProgram, bridge, type Plugin, ptp, remora } from "./ground.ts";

/** The container runtime writes `containerd.log` in the node's folder. */
export interface Node extends Ground {
  cri: Cri;
  runPod(spec: PodSpec): Promise<Pod>;
  /** Kills containerd without a warning. Its shims and the pods stay. */
  killRuntime(): Promise<void>;
  startRuntime(): Promise<void>;
}

/** Starts a node. Throws with the end of containerd's log if it does not come up. */
export async function startNode(options: GroundOptions): Promise<Node> {
  const ground = await layGround(options);
  try {
    const { dir } = ground;
    writeFileSync(join(dir, "config.toml"), runtimeConfig(ground));
    const runtime = new Runtime(ground);
    await runtime.start();
    await importImage(ground, runtime);
    let pods = 0;
    return {
      ...ground,
      get cri() {
        return runtime.cri;
      },
      runPod: (spec) => makePod(() => runtime.cri, sandboxConfig(dir, ground.cgroup, { ...spec }, ++pods)),
      killRuntime: () => runtime.kill(),
      startRuntime: () => runtime.start(),
      [Symbol.dispose]() {
        runtime.cri.close();
        ground[Symbol.dispose]();
      },
    };
  } catch (error) {
    ground[Symbol.dispose]();
    throw error;
  }
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

async function importImage({ dir, execClient }: Ground, runtime: Runtime): Promise<void> {
  const archive = join(dir, "image.tar");
  writeFileSync(archive, buildImage(dir));
  const imported = execClient(
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
  readonly #ground: Ground;
  #child: ChildProcess | undefined;

  constructor(ground: Ground) {
    this.#ground = ground;
    this.socket = join(ground.dir, "containerd.sock");
    this.cri = connect(this.socket);
  }

  async start(): Promise<void> {
    this.cri.close();
    this.cri = connect(this.socket);
    const { dir, spawnClient } = this.#ground;
    const log = openSync(join(dir, "containerd.log"), "a");
    // The shell leaves containerd's process id as the enclosure sees it.
    const command = `echo $$ >"$1/containerd.pid"; exec containerd --config "$1/config.toml"`;
    const child = spawnClient("sh", ["-c", command, "sh", dir], { stdio: ["ignore", log, log] });
    this.#child = child;
    try {
      await until("containerd", async () => {
        if (child.exitCode !== null) throw new Error(`containerd ended with status ${child.exitCode}`);
        // Since version 2 it asks each CNI plugin for its STATUS.
        const { status } = await this.cri.call("Status", { verbose: false }, 10);
        const lacking = status.conditions.find((condition) => !condition.status);
        if (lacking) throw new Error(`${lacking.type}: ${lacking.message}`);
        return true;
      });
    } catch (error) {
      const text = readFileSync(join(dir, "containerd.log"), "utf8");
      throw new Error(`${(error as Error).message}\n${text.split("\n").slice(-15).join("\n")}`);
    }
  }

  async kill(): Promise<void> {
    const gone = new Promise((resolve) => this.#child?.once("exit", resolve));
    const { dir, exec } = this.#ground;
    exec("kill", "-KILL", readFileSync(join(dir, "containerd.pid"), "utf8").trim());
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

/** What both forms have. What lies in /run is on the enclosure's own tmpfs. */
const commonConfig = (dir: string): string => `root = "/run/containerd-root"
state = "/run/containerd-state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "${dir}/containerd.sock"
`;

/** What the CRI plugin needs to work without CAP_SYS_RESOURCE, AppArmor and hugetlb cgroups. */
const modest = `
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true`;

/** containerd 1.6 and 1.7. */
const configVersion2 = (dir: string): string => `version = 2
${commonConfig(dir)}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${imageName}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"${modest}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${dir}/bin"
    conf_dir = "${dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`;

/** containerd 2: three plugins where there was one, and a service that unpacks what is imported. */
const configVersion3 = (dir: string): string => `version = 3
${commonConfig(dir)}
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "${imageName}"
[plugins."io.containerd.cri.v1.runtime"]${modest}
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["${dir}/bin"]
    conf_dir = "${dir}/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = "native"
`;

const runtimeConfig = ({ dir, client }: Ground): string =>
  Number.parseInt(client?.versions.containerd ?? "1", 10) < 2 ? configVersion2(dir) : configVersion3(dir);
