// SPDX-License-Identifier: Apache-2.0
/** A pod without a container runtime, for tests of the command line: a namespace, its chain, and a peer to talk to. */
import { chmodSync, copyFileSync, existsSync, mkdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { openCatalog } from "../../plugin/catalog/catalog.ts";
import { attach } from "../../plugin/chain/attach.ts";
import { plan } from "../../plugin/chain/plan.ts";
import type { Io } from "../../plugin/cli/command.ts";
import { run } from "../../plugin/cli/run.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import type { NodeConfig } from "../../plugin/model.ts";
import { select } from "../../plugin/select/select.ts";
import type { Namespace, Scratch } from "./scratch.ts";

const library = resolve(import.meta.dirname, "../../bpf");
export const containerId = "3f2a9c01bd7e44aa90c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6f7081";

/** Runs a command line in this process. `io` changes what it meets. */
export async function remoraWith(io: Partial<Io>, ...argv: string[]) {
  let stdout = "";
  let stderr = "";
  const status = await run(argv, {
    stdout(text: string) {
      stdout += text;
    },
    stderr(text: string) {
      stderr += text;
    },
    isTerminal: false,
    columns: 0,
    ...io,
  });
  return { status, stdout, stderr };
}

export function remora(...argv: string[]) {
  return remoraWith({}, ...argv);
}

/** A program directory with the library's programs and those of a test, compiled. `texts`: BPF C by program name. */
export function programs(world: Scratch, texts: Record<string, string> = {}): string {
  const directory = join(world.dir, "programs");
  if (!existsSync(directory)) mkdirSync(directory, { mode: 0o755 });
  const objects = [
    ...["count", "acl"].map((name) => world.compile(join(library, `${name}.bpf.c`))),
    ...Object.entries(texts).map(([name, text]) => world.compile({ name, text })),
  ];
  for (const object of objects) {
    const target = join(directory, basename(object));
    copyFileSync(object, target);
    chmodSync(target, 0o644);
  }
  return directory;
}

export interface Pod {
  bpffs: string;
  /** The peer, 10.99.0.1. */
  outside: Namespace;
  /** The pod, 10.99.0.2 on eth0. */
  inside: Namespace;
}

/** Two namespaces with a pair between them; the second is the pod shop/web, with a chain as these annotations ask. */
export async function pod(
  world: Scratch,
  annotations: Record<string, string>,
  texts: Record<string, string> = {},
): Promise<Pod> {
  const kernel = createNativeKernel();
  const outside = world.namespace();
  const inside = world.namespace();
  world.veth(
    { namespace: outside, ifname: "outside", addresses: ["10.99.0.1/24"] },
    { namespace: inside, ifname: "eth0", addresses: ["10.99.0.2/24"] },
  );
  const bpffs = join(world.bpffs(), "remora");
  const config: NodeConfig = {
    network: "pods",
    programDirs: [programs(world, texts)],
    chain: [],
    allow: { "*": ["*"] },
    failurePolicy: "closed",
    hook: "auto",
    bpffs,
    agent: { socket: "/nowhere" },
    log: { level: "info" },
  };
  const identity = { namespace: "shop", name: "web", uid: "u1" };
  const catalog = await openCatalog(config.programDirs, kernel);
  const { selected, missing } = select({ config, annotations, pod: identity, catalog });
  attach(
    kernel,
    plan({
      id: { network: "pods", containerId, ifname: "eth0" },
      netns: inside.path,
      interface: kernel.findInterface(inside.path, "eth0"),
      pod: identity,
      config,
      selected,
      missing,
    }),
  );
  return { bpffs, outside, inside };
}
