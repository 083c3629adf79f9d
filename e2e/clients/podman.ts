// SPDX-License-Identifier: Apache-2.0
/**
 * A node whose runtime is podman with its CNI backend: its storage, state, locks, networks and configuration are below the
 * ground's folder or on the enclosure's own /run and /var/lib, so that a podman of the machine's never meets it.
 */
import type { SpawnSyncReturns } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Ground, type GroundOptions, layGround } from "../containerd/ground.ts";
import { buildImage, imageName } from "../containerd/image.ts";
import { type Client, fetchClient } from "./clients.ts";

export interface Container {
  id: string;
  name: string;
  ip: string;
  /** The network namespace's path, as the node's namespaces see it. */
  netns: string;
  /** Runs a command in it to its end and returns its stdout. Throws with what it said. */
  exec(...command: string[]): string;
  /** Takes it away, network (DEL) and all. */
  remove(): void;
}

export interface PodmanNode extends Ground {
  client: Client;
  /** Any podman command. Does not throw on a non-zero status. */
  podman(...args: string[]): SpawnSyncReturns<string>;
  /** Starts a container from the tool image; without a command it sleeps. Throws with what podman said. */
  run(name: string, ...command: string[]): Container;
  /** As `run`, with options of `podman run` before the image. */
  runWith(options: string[], name: string, ...command: string[]): Container;
}

export async function startPodman(options: GroundOptions): Promise<PodmanNode> {
  const client = fetchClient("podman-4.3");
  const ground = await layGround(options, client);
  try {
    return prepare(ground, client);
  } catch (error) {
    ground[Symbol.dispose]();
    throw error;
  }
}

function prepare(ground: Ground, client: Client): PodmanNode {
  const { dir } = ground;
  const write = (name: string, text: string | Buffer): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };
  const environment = [
    `CONTAINERS_CONF=${write("containers.conf", engineConfig(dir, client))}`,
    `CONTAINERS_STORAGE_CONF=${write("storage.conf", storageConfig)}`,
    `CONTAINERS_REGISTRIES_CONF=${write("registries.conf", "unqualified-search-registries = []\n")}`,
    `HOME=${dir}`,
    `TMPDIR=${dir}`,
  ];
  const podman = (...args: string[]) => ground.execClient("env", ...environment, "podman", ...args);
  const must = (...args: string[]): string => {
    const { status, stdout, stderr } = podman(...args);
    if (status !== 0) throw new Error(`podman ${args.join(" ")}: exit ${status}: ${stderr.trim()}`);
    return stdout.trim();
  };
  const policy = write("policy.json", JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }));
  must("load", "--quiet", "--signature-policy", policy, "--input", write("image.tar", buildImage(dir)));

  const runWith: PodmanNode["runWith"] = (options, name, ...command) => {
    const fixed = ["--pull=never", `--network=${ground.conflist.name}`, `--cgroup-parent=${ground.cgroup}`];
    const entry = command.length === 0 ? [] : [`--entrypoint=${JSON.stringify(command)}`];
    const id = must("run", "--detach", `--name=${name}`, ...fixed, ...entry, ...options, imageName);
    const [state] = JSON.parse(must("inspect", "--type=container", id)) as [
      { NetworkSettings: { SandboxKey: string; Networks: Record<string, { IPAddress: string }> } },
    ];
    const { SandboxKey: netns, Networks: networks } = state.NetworkSettings;
    return {
      id,
      name,
      ip: networks[ground.conflist.name]?.IPAddress ?? "",
      netns,
      exec: (...argv) => must("exec", id, ...argv),
      remove: () => void must("rm", "--force", "--time=0", id),
    };
  };
  return { ...ground, client, podman, run: (name, ...command) => runWith([], name, ...command), runWith };
}

const storageConfig = `[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
`;

/** `lock_type`: the other kind lives in /dev/shm, which the enclosure shares with the machine. */
const engineConfig = (dir: string, client: Client): string => `[containers]
default_sysctls = []
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
static_dir = "/var/lib/containers/libpod"
volume_path = "/var/lib/containers/volumes"
tmp_dir = "/run/libpod"
conmon_path = ["${client.file("usr/bin/conmon")}"]
runtime = "runc"
[engine.runtimes]
runc = ["${client.file("usr/sbin/runc")}"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["${dir}/bin"]
network_config_dir = "${dir}/net.d"
default_network = "pods"
`;
