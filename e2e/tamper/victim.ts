// SPDX-License-Identifier: Apache-2.0
/**
 * A pod with a chain that drops UDP to one port and lets pass what goes to another, a peer, and hostile processes inside
 * the pod. What arrives is counted by the kernel: a datagram to a port where nobody listens is a `NoPorts` of the receiver.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { listAttachments } from "../../plugin/chain/status.ts";
import type { AddRequest } from "../../plugin/cni/request.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import type { Direction } from "../../plugin/kernel/port.ts";
import type { NodeConfig } from "../../plugin/model.ts";
import { keepLog, request } from "../../plugin/verbs/fixture.ts";
import { createVerbs } from "../../plugin/verbs/index.ts";
import { type Namespace, run, scratch } from "../lib/scratch.ts";

const root = resolve(import.meta.dirname, "../..");
export const kernel = createNativeKernel();

/** The UDP port that the chain drops, and one that it does not know. */
export const denied = 9;
export const allowed = 10;
const addresses = { pod: "10.98.0.2", peer: "10.98.0.1" };

/** What containerd gives a container that asks for nothing (containerd, pkg/oci/spec.go). */
const usual =
  "+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";

/** How a hostile process inside the pod came to its rights. */
export const attackers = {
  /** A container as containerd makes it. */
  usual: { hostUsers: true, enter: (path: string) => [...into(path), ...capabilities(usual)] },
  /** `capabilities: {add: [NET_ADMIN]}`. */
  netAdmin: { hostUsers: true, enter: (path: string) => [...into(path), ...capabilities(`${usual},+net_admin`)] },
  /** All capabilities, CAP_SYS_ADMIN among them, in a user namespace that the container made itself. */
  ownUserNamespace: {
    hostUsers: true,
    enter: (path: string) => [...into(path), ...capabilities(usual), ...["unshare", "--user", "--map-root-user", "--"]],
  },
  /** A pod with `hostUsers: false` and all capabilities: its user namespace owns the network namespace. */
  podUserNamespace: { hostUsers: false, enter: (_: string, owner: number) => intoProcess(owner) },
  /** `capabilities: {add: [NET_ADMIN, BPF]}`, in the initial user namespace. */
  netAdminAndBpf: {
    hostUsers: true,
    enter: (path: string) => [...into(path), ...capabilities(`${usual},+net_admin,+bpf`)],
  },
  /** `privileged: true`. */
  privileged: { hostUsers: true, enter: (path: string) => into(path) },
} as const;
export type Attacker = keyof typeof attackers;

function into(path: string): string[] {
  return ["nsenter", `--net=${path}`];
}
function intoProcess(pid: number): string[] {
  return ["nsenter", "--target", String(pid), "--user", "--net", "--"];
}
function capabilities(set: string): string[] {
  return ["setpriv", "--bounding-set", `-all,${set}`, "--inh-caps", "-all", "--"];
}

export interface Arrived {
  denied: number;
  allowed: number;
}
export interface Victim extends Disposable {
  pod: Namespace;
  peer: Namespace;
  /** A container's own device, as `ip` names it there. */
  request: AddRequest;
  verbs: ReturnType<typeof createVerbs>;
  /** Runs a shell script as the attacker, with `hostile` and `frames` in its PATH; its status and all it said. */
  attack(script: string): { status: number | null; said: string };
  /** The ids that `hostile` wants to know: `LINK PROGRAM ARRAY`. */
  ids(direction: Direction): string;
  /** Sends `count` datagrams to the denied port, then as many to the other, and tells how many arrived of each. */
  send(direction: Direction, count: number): Promise<Arrived>;
  /** How many datagrams have arrived at the peer since the start of `act`, as soon as there are `atLeast`, or none came for a second. */
  arriving(receiver: Namespace, atLeast: number, act: () => void): Promise<number>;
  /** Packets that the chain has seen and dropped. */
  counted(direction: Direction): { packets: number; dropped: number };
  /** Everything that Remora has pinned. */
  left(): string[];
  peerMac: string;
}

/** The node's `chain` where a test has no other: it drops UDP to the denied port in both directions, then counts. */
const usualChain: NodeConfig["chain"] = [
  { program: "acl", priority: 10, params: { rules: `deny udp any ${denied}` } },
  { program: "count", priority: 20 },
];

/**
 * The attacker is who runs what `attack` is given. With `host` the peer is the pod's host, and the plugin is called there: as
 * behind ptp, which leaves the host's end of the pair as it is, or as behind bridge, which enslaves it.
 */
export async function victim(attacker: Attacker, chain = usualChain, host?: "ptp" | "bridge"): Promise<Victim> {
  const world = scratch();
  const { hostUsers, enter } = attackers[attacker];
  // Holds the user namespace, if there is one, that owns the pod's network.
  const owner = hostUsers
    ? undefined
    : spawn("unshare", ["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 2147483647"], {
        stdio: ["ignore", "pipe", "inherit"],
      });
  const name = `remora-test-${process.pid}-owned`;
  const dispose = (): void => {
    owner?.kill("SIGKILL");
    if (owner) spawnSync("ip", ["netns", "delete", name]);
    world[Symbol.dispose]();
  };
  try {
    let pod: Namespace;
    if (owner?.pid && owner.stdout) {
      await once(owner.stdout, "data");
      run("ip", "netns", "attach", name, String(owner.pid));
      pod = {
        name,
        path: `/run/netns/${name}`,
        exec: (command, ...args) => run("ip", "netns", "exec", name, command, ...args),
      };
      run("ip", "-n", name, "link", "set", "lo", "up");
    } else pod = world.namespace();
    const peer = world.namespace();
    world.veth(
      { namespace: pod, ifname: "eth0", addresses: [`${addresses.pod}/24`] },
      { namespace: peer, ifname: "host0", addresses: host === "bridge" ? [] : [`${addresses.peer}/24`] },
    );
    const receiver = host === "bridge" ? "bridge0" : "host0";
    if (host === "bridge") {
      const ip = (...words: string[]): string => peer.exec("ip", ...words);
      ip("link", "add", receiver, "type", "bridge");
      ip("link", "set", "host0", "master", receiver);
      ip("link", "set", receiver, "up");
      ip("address", "add", `${addresses.peer}/24`, "dev", receiver);
    }
    // Nobody asks who has which address: resolution is no part of what is counted.
    const mac = (namespace: Namespace, ifname: string): string =>
      JSON.parse(run("ip", "-n", namespace.name, "-json", "link", "show", ifname))[0].address;
    const [podMac, peerMac] = [mac(pod, "eth0"), mac(peer, receiver)];
    const neighbours = (): void => {
      for (const [namespace, address, lladdr, device] of [
        [pod, addresses.peer, peerMac, "eth0"],
        [peer, addresses.pod, podMac, receiver],
      ] as const)
        spawnSync("ip", ["-n", namespace.name, "neigh", "replace", address, "lladdr", lladdr, "dev", device], {
          stdio: "ignore",
        });
    };
    neighbours();
    const verbs = createVerbs({ kernel: () => kernel, log: keepLog() });
    const bpffs = `${world.bpffs()}/remora`;
    const asked = request(join(root, "dist/programs"), bpffs, { netns: pod.path, config: { chain } });
    if (host) addAt(peer, asked);
    else await verbs.add(asked);

    const received = (receiver: Namespace): number => {
      const [names, values] = receiver
        .exec("cat", "/proc/net/snmp")
        .split("\n")
        .filter((line) => line.startsWith("Udp:"))
        .map((line) => line.split(" "));
      return Number(values?.[names?.indexOf("NoPorts") ?? -1]);
    };
    const arriving: Victim["arriving"] = async (receiver, atLeast, act) => {
      const before = received(receiver);
      act();
      let [arrived, still] = [received(receiver) - before, 0];
      while (arrived < atLeast && still < 20) {
        await sleep(50);
        const now = received(receiver) - before;
        still = now === arrived ? still + 1 : 0;
        arrived = now;
      }
      return arrived;
    };
    return {
      pod,
      peer,
      request: asked,
      verbs,
      peerMac,
      attack(script) {
        const [command = "", ...args] = enter(pod.path, owner?.pid ?? 0);
        const env = { ...process.env, PATH: `${helpers()}:${process.env.PATH}:/usr/sbin:/sbin` };
        const child = spawnSync(command, [...args, "sh", "-c", script], { encoding: "utf8", timeout: 30_000, env });
        if (child.error) throw child.error;
        return { status: child.status, said: `${child.stdout}${child.stderr}`.trim() };
      },
      ids(direction) {
        const { fd } = kernel.openPin(`${bpffs}/podnet/c0ffee:eth0/link_${direction}`);
        const { id, programId } = kernel.linkInfo(fd);
        kernel.close(fd);
        const { fd: chain } = kernel.openPin(`${bpffs}/podnet/c0ffee:eth0/g1/${direction}/chain`);
        const array = kernel.mapInfo(chain).id;
        kernel.close(chain);
        return `${id} ${programId} ${array}`;
      },
      arriving,
      async send(direction, count) {
        const [from, to, address] =
          direction === "egress" ? ([pod, peer, addresses.peer] as const) : ([peer, pod, addresses.pod] as const);
        neighbours();
        // On one CPU, so that they stay in order: once the last of the second kind is there, so is the first kind.
        const datagrams = (port: number) => `${helpers()}/send ${address} ${port} ${count}`;
        const both = await arriving(to, count, () => {
          from.exec("taskset", "-c", "0", "sh", "-c", `${datagrams(denied)}; ${datagrams(allowed)}`);
        });
        return { denied: Math.max(0, both - count), allowed: Math.min(both, count) };
      },
      counted(direction) {
        const entry = listAttachments(kernel, bpffs)[0]?.[direction].find(({ program }) => program === "acl");
        return { packets: entry?.packets ?? 0, dropped: entry?.ended.shot ?? 0 };
      },
      left: () => readdirSync(bpffs.slice(0, bpffs.lastIndexOf("/"))).filter((name) => !name.endsWith(".debug")),
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** ADD as a runtime makes it, on the host that is this namespace. */
function addAt(host: Namespace, { config, containerId, netns, ifname }: AddRequest): void {
  const { network, programDirs, chain, bpffs } = config;
  const interfaces = [{ name: ifname, mac: "02:00:00:00:00:02", sandbox: netns }];
  const prevResult = { cniVersion: "1.0.0", interfaces, ips: [] };
  const input = { cniVersion: "1.0.0", name: network, type: "remora", programDirs, chain, bpffs, prevResult };
  const identity = { CNI_CONTAINERID: containerId, CNI_NETNS: netns, CNI_IFNAME: ifname, CNI_PATH: "/opt/cni/bin" };
  const plugin = spawnSync("nsenter", [`--net=${host.path}`, process.execPath, join(root, "plugin/main.ts")], {
    encoding: "utf8",
    env: { ...process.env, CNI_COMMAND: "ADD", ...identity },
    input: JSON.stringify(input),
    timeout: 30_000,
  });
  if (plugin.status !== 0) throw new Error(`ADD: ${plugin.stdout}${plugin.stderr}`);
}

let compiled: string | undefined;

/** A folder with the programs that hostile processes use, compiled once. */
function helpers(): string {
  if (compiled !== undefined) return compiled;
  const { dir } = scratch();
  run("chmod", "0755", dir); // a root without CAP_DAC_OVERRIDE in the initial user namespace must find them
  for (const source of ["e2e/tamper/hostile.c", "e2e/tamper/frames.c", "e2e/containerd/send.c"])
    run(
      "gcc",
      ...["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"],
      ...["-isystem", join(root, "native/build/vendor/include")], // the machine's own may be older than TCX
      ...["-o", join(dir, basename(source, ".c")), join(root, source)],
    );
  compiled = dir;
  return dir;
}
