// SPDX-License-Identifier: Apache-2.0
/** A client of the Container Runtime Interface (v1), as the kubelet is one: gRPC over the runtime's Unix socket. */
import { join } from "node:path";
import { type Client, credentials, loadPackageDefinition, type ServiceClientConstructor } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

export interface SandboxConfig {
  metadata: { name: string; namespace: string; uid: string; attempt: number };
  hostname: string;
  logDirectory: string;
  dnsConfig: { servers: string[] };
  labels: Record<string, string>;
  annotations: Record<string, string>;
  linux: { cgroupParent: string };
}
export interface ContainerConfig {
  metadata: { name: string };
  image: { image: string };
  command: string[];
  logPath: string;
}
export interface Sandbox {
  id: string;
  metadata: { name: string; namespace: string; uid: string };
  state: "SANDBOX_READY" | "SANDBOX_NOTREADY";
}
export type ContainerState = "CONTAINER_CREATED" | "CONTAINER_RUNNING" | "CONTAINER_EXITED" | "CONTAINER_UNKNOWN";

/** Request and response of each method that is used. */
interface Methods {
  Version: [{ version: string }, { runtimeName: string; runtimeVersion: string }];
  Status: [
    { verbose: boolean },
    { status: { conditions: { type: string; status: boolean; reason: string; message: string }[] } },
  ];
  RunPodSandbox: [{ config: SandboxConfig }, { podSandboxId: string }];
  StopPodSandbox: [{ podSandboxId: string }, unknown];
  RemovePodSandbox: [{ podSandboxId: string }, unknown];
  PodSandboxStatus: [
    { podSandboxId: string; verbose: boolean },
    { status: Sandbox & { network: { ip: string } }; info: Record<string, string> },
  ];
  ListPodSandbox: [Record<string, never>, { items: Sandbox[] }];
  CreateContainer: [
    { podSandboxId: string; config: ContainerConfig; sandboxConfig: SandboxConfig },
    { containerId: string },
  ];
  StartContainer: [{ containerId: string }, unknown];
  StopContainer: [{ containerId: string; timeout: number }, unknown];
  RemoveContainer: [{ containerId: string }, unknown];
  ListContainers: [
    Record<string, never>,
    { containers: { id: string; podSandboxId: string; state: ContainerState }[] },
  ];
  ContainerStatus: [
    { containerId: string },
    { status: { state: ContainerState; exitCode: number; reason: string; message: string } },
  ];
  ExecSync: [
    { containerId: string; cmd: string[]; timeout: number },
    { stdout: Buffer; stderr: Buffer; exitCode: number },
  ];
  ListImages: [Record<string, never>, { images: { repoTags: string[] }[] }];
}
export type Method = keyof Methods;

export interface Cri {
  /** One call. Throws the runtime's own error: its message is what `kubectl describe pod` would show. */
  call<M extends Method>(method: M, request: Methods[M][0], seconds?: number): Promise<Methods[M][1]>;
  close(): void;
}

type Unary = (
  request: unknown,
  options: { deadline: Date },
  done: (error: Error | null, reply: unknown) => void,
) => void;

/** Connects lazily: the first call does. `socket` is an absolute path of at most 107 bytes. */
export function connect(socket: string): Cri {
  const definition = loadSync(join(import.meta.dirname, "cri.proto"), { longs: Number, enums: String, defaults: true });
  const { runtime } = loadPackageDefinition(definition) as unknown as {
    runtime: { v1: { RuntimeService: ServiceClientConstructor; ImageService: ServiceClientConstructor } };
  };
  const open = (service: ServiceClientConstructor): Client =>
    new service(`unix:${socket}`, credentials.createInsecure(), { "grpc.max_receive_message_length": 16 << 20 });
  const runtimeService = open(runtime.v1.RuntimeService);
  const imageService = open(runtime.v1.ImageService);
  return {
    call(method, request, seconds = 60) {
      const client = method === "ListImages" ? imageService : runtimeService;
      const unary = (client as unknown as Record<string, Unary>)[method] as Unary;
      return new Promise((resolve, reject) => {
        unary.call(client, request, { deadline: new Date(Date.now() + seconds * 1000) }, (error, reply) =>
          error ? reject(error) : resolve(reply as never),
        );
      });
    },
    close() {
      runtimeService.close();
      imageService.close();
    },
  };
}
