// SPDX-License-Identifier: Apache-2.0
/** A node for tests of interfaces: a host's namespace in which CNI's reference plugins and ours run as libcni runs them. */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import * as assert from "uvu/assert";
import type { AttachmentStatus } from "../../plugin/model.ts";
import { type Namespace, type Scratch, scratch } from "../lib/scratch.ts";
import { type ChainRunner, chainRunner, type Json } from "../protocol/chain-runner.ts";
import { executable } from "../protocol/executable.ts";

const library = resolve(import.meta.dirname, "../../dist/programs");

export interface Answer {
  status: number | null;
  said: string;
}

export interface Ground extends Disposable {
  world: Scratch;
  /** Where the plugins and the command line run. */
  host: Namespace;
  bpffs: string;
  /** Where programs are found. */
  programs: string;
  /** The folder of a plugin's of the test's own, first in CNI_PATH. */
  bin: string;
  /** A network whose primary plugin makes the interface, with ours behind it. */
  network(primary: Json & { type: string }, change?: Partial<Network>): ChainRunner;
  remora(...argv: string[]): Answer;
  attachments(): AttachmentStatus[];
  /** Names of what is pinned of attachments: `network/container:interface`. */
  pinned(): string[];
}

interface Network {
  name: string;
  chain: object[];
  cniVersion: string;
}

export const containerId = "c0ffee";
/** Of the pod shop/web, whose name is in CNI_ARGS. */
export function attachment(netns: string, ifname = "eth0") {
  const args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=5d1";
  return { containerId, netns, ifname, args };
}

export function ground(): Ground {
  const world = scratch();
  try {
    const host = world.namespace();
    // Nobody else is there who could have an address already.
    host.exec("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0");
    const [programs, bin] = [join(world.dir, "programs"), join(world.dir, "bin")];
    cpSync(library, programs, { recursive: true });
    mkdirSync(bin);
    const bpffs = `${world.bpffs()}/remora`;
    const remora: Ground["remora"] = (...argv) => {
      const command = [`--net=${host.path}`, executable, ...argv, "--bpffs", bpffs];
      const child = spawnSync("nsenter", command, { encoding: "utf8", timeout: 60_000 });
      return { status: child.status, said: `${child.stdout}${child.stderr}` };
    };
    return {
      world,
      host,
      bpffs,
      programs,
      bin,
      network(primary, { name = "pods", chain = [{ program: "count" }], cniVersion = "1.0.0" } = {}) {
        const ipam = primary.ipam as Json | undefined;
        const dataDir = join(world.dir, "ipam");
        const first = {
          ...primary,
          ...(ipam && { ipam: { ...(ipam.type === "host-local" && { dataDir }), ...ipam } }),
        };
        const ours = { type: "remora", programDirs: [programs], bpffs, chain, log: { level: "warn" } };
        const path = [bin, dirname(executable), "/usr/lib/cni"];
        return chainRunner({ cniVersion, name, plugins: [first, ours] }, host.path, path);
      },
      remora,
      attachments: () => JSON.parse(done(remora("status", "--json"))).attachments,
      pinned: () =>
        (existsSync(bpffs) ? readdirSync(bpffs) : [])
          .flatMap((network) => readdirSync(join(bpffs, network)).map((name) => `${network}/${name}`))
          .sort(),
      [Symbol.dispose]: () => world[Symbol.dispose](),
    };
  } catch (error) {
    world[Symbol.dispose]();
    throw error;
  }
}

/** A pod's namespace, where addresses are good at once. */
export function podNamespace({ world }: Ground): Namespace {
  const pod = world.namespace();
  pod.exec("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0");
  return pod;
}

/** A primary plugin that only says what it was given: for interfaces that the test has made. */
export function presentPlugin({ bin }: Ground, result: Json): { type: string } {
  const text = JSON.stringify({ cniVersion: "1.0.0", ...result });
  const script = `#!/bin/sh\ncat >/dev/null\n[ "$CNI_COMMAND" != ADD ] || echo '${text}'\n`;
  writeFileSync(join(bin, "present"), script, { mode: 0o755 });
  return { type: "present" };
}

export function done({ status, said }: Answer): string {
  assert.is(status, 0, said);
  return said;
}

export function ping(from: Namespace, to: string, count: number, ...options: string[]): boolean {
  const argv = ["netns", "exec", from.name, "ping", "-q", "-c", `${count}`, "-i", "0.2", "-W", "5", ...options, to];
  return spawnSync("ip", argv).status === 0;
}

/** Packets that the first program of a direction has counted. */
export function counted({ attachments }: Ground, direction: "ingress" | "egress", ifname = "eth0"): number {
  const found = attachments().find((each) => each.ifname === ifname);
  return found?.[direction][0]?.packets ?? Number.NaN;
}
