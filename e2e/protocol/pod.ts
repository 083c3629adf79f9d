// SPDX-License-Identifier: Apache-2.0
/** A pod-like place to call into: a namespace with an interface, a program folder, a bpffs, and the call that fits. */
import { copyFileSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { Scratch } from "../lib/scratch.ts";
import { type Answer, call } from "./executable.ts";

const library = resolve(import.meta.dirname, "../../dist/programs");

export interface Pod {
  netns: string;
  programs: string;
  bpffs: string;
  env: Record<string, string>;
  configuration: Record<string, unknown> & { prevResult: Record<string, unknown> };
  /** Calls a verb; `env` and `configuration` are changes to the good ones (undefined takes away). */
  call(verb: string, configuration?: Record<string, unknown>, env?: Record<string, string | undefined>): Answer;
  /** What hangs on eth0: the number of links, and of clsact filters. */
  attached(): number;
}

export function pod(world: Scratch): Pod {
  const inside = world.namespace();
  const outside = world.namespace();
  world.veth(
    { namespace: inside, ifname: "eth0", addresses: ["10.0.0.2/24"] },
    { namespace: outside, ifname: "veth1", addresses: ["10.0.0.1/24"] },
  );
  const programs = programFolder(world);
  const bpffs = `${world.bpffs()}/remora`;
  const env = {
    CNI_CONTAINERID: `c${process.pid}`,
    CNI_NETNS: inside.path,
    CNI_IFNAME: "eth0",
    CNI_PATH: "/opt/cni/bin",
    CNI_ARGS: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=5d1",
  };
  const configuration = {
    cniVersion: "1.1.0",
    name: "pods",
    type: "remora",
    programDirs: [programs],
    bpffs,
    log: { level: "warn" },
    prevResult: {
      cniVersion: "1.1.0",
      interfaces: [{ name: "veth1" }, { name: "eth0", mac: "02:00:00:00:00:02", sandbox: inside.path }],
      ips: [{ address: "10.0.0.2/24", interface: 1, gateway: "10.0.0.1" }],
    },
  };
  return {
    netns: inside.path,
    programs,
    bpffs,
    env,
    configuration,
    call: (verb, change = {}, changedEnv = {}) =>
      call({ CNI_COMMAND: verb, ...env, ...changedEnv }, JSON.stringify({ ...configuration, ...change })),
    attached: () => {
      const filters = inside.exec("tc", "filter", "show", "dev", "eth0", "ingress");
      const filtersOut = inside.exec("tc", "filter", "show", "dev", "eth0", "egress");
      return links(bpffs) + (filters + filtersOut).split("\n").filter((line) => line.includes(" handle ")).length;
    },
  };
}

/** A copy of the program library that is this test's to spoil. */
export function programFolder(world: Scratch): string {
  const folder = join(world.dir, "programs");
  mkdirSync(folder, { mode: 0o755 });
  for (const name of ["count", "acl"]) copyFileSync(join(library, `${name}.bpf.o`), join(folder, `${name}.bpf.o`));
  return folder;
}

/** Every path below a folder of pins; none where there is no such folder. */
export function pins(bpffs: string): string[] {
  return existsSync(bpffs) ? readdirSync(bpffs, { recursive: true, encoding: "utf8" }) : [];
}

export function links(bpffs: string): number {
  return pins(bpffs).filter((path) => basename(path).startsWith("link_")).length;
}

export function annotated(annotations: Record<string, string>): Record<string, unknown> {
  return { runtimeConfig: { "io.kubernetes.cri.pod-annotations": annotations } };
}
