// SPDX-License-Identifier: Apache-2.0
/** A pod on a test node: a sandbox and its containers, made and removed in the order of the kubelet. */
import type { ContainerState, Cri, SandboxConfig } from "./cri.ts";
import { imageName } from "./image.ts";

export interface PodSpec {
  name: string;
  /** `default` if not given. */
  namespace?: string;
  uid?: string;
  annotations?: Record<string, string>;
}
export interface Output {
  stdout: string;
  stderr: string;
  exitCode: number;
}

export interface Pod {
  /** The sandbox's id: CNI's container id. */
  id: string;
  name: string;
  namespace: string;
  uid: string;
  ip: string;
  /** The network namespace's path, as the node's namespaces see it. */
  netns: string;
  /** Creates and starts a container from the tool image; it may end at once. Returns its id. */
  run(...command: string[]): Promise<string>;
  /** Runs a command in the pod to its end, in a container that sleeps otherwise. Does not throw on a non-zero status. */
  exec(...command: string[]): Promise<Output>;
  state(container: string): Promise<{ state: ContainerState; exitCode: number }>;
  /** StopPodSandbox: the containers end, the network is taken down (DEL). May be called again. */
  stop(): Promise<void>;
  /** `stop`, then RemovePodSandbox. */
  remove(): Promise<void>;
}

/** Throws the runtime's error where the sandbox cannot be made; nothing is left of it then. `cri` is asked each time: the runtime may have been restarted. */
export async function makePod(cri: () => Cri, config: SandboxConfig): Promise<Pod> {
  const { podSandboxId: id } = await cri().call("RunPodSandbox", { config });
  const { status, info } = await cri().call("PodSandboxStatus", { podSandboxId: id, verbose: true });
  let tools: Promise<string> | undefined;
  let containers = 0;

  const run = async (...command: string[]): Promise<string> => {
    const name = `container-${++containers}`;
    const { containerId } = await cri().call("CreateContainer", {
      podSandboxId: id,
      config: { metadata: { name }, image: { image: imageName }, command, logPath: `${name}.log` },
      sandboxConfig: config,
    });
    await cri().call("StartContainer", { containerId });
    return containerId;
  };
  const stop = async (): Promise<void> => {
    await cri().call("StopPodSandbox", { podSandboxId: id });
  };
  return {
    id,
    name: config.metadata.name,
    namespace: config.metadata.namespace,
    uid: config.metadata.uid,
    ip: status.network.ip,
    netns: networkNamespace(info),
    run,
    async exec(...cmd) {
      tools ??= run("sleep", "2147483647");
      const { stdout, stderr, exitCode } = await cri().call("ExecSync", { containerId: await tools, cmd, timeout: 30 });
      return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode };
    },
    async state(containerId) {
      return (await cri().call("ContainerStatus", { containerId })).status;
    },
    stop,
    async remove() {
      await stop();
      await cri().call("RemovePodSandbox", { podSandboxId: id });
    },
  };
}

/** From the sandbox's OCI runtime specification, which the verbose status carries as JSON. */
function networkNamespace(info: Record<string, string>): string {
  const { runtimeSpec } = JSON.parse(info.info ?? "{}") as {
    runtimeSpec?: { linux: { namespaces: { type: string; path?: string }[] } };
  };
  const path = runtimeSpec?.linux.namespaces.find(({ type }) => type === "network")?.path;
  if (path === undefined) throw new Error("the runtime does not say which network namespace the sandbox has");
  return path;
}
