// SPDX-License-Identifier: Apache-2.0
/**
 * What a pod's start pays: ADD and DEL of a chain of three, standalone, as whole processes, beside two chained plugins
 * of the reference set and beside a Node that does nothing.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { scratch } from "../e2e/lib/scratch.ts";
import { interleave, median, ratio, table } from "./figures.ts";

const dist = resolve(import.meta.dirname, "../dist");
const plugins = "/usr/lib/cni";

export function verbs(options: { rounds: number }): string {
  using world = scratch();
  const [pod, host] = [world.namespace(), world.namespace()];
  world.veth({ namespace: pod, ifname: "eth0" }, { namespace: host, ifname: "veth0", addresses: ["10.9.0.1/24"] });
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  cpSync(join(dist, "programs"), programs, { recursive: true });

  const prevResult = {
    cniVersion: "1.0.0",
    interfaces: [{ name: "veth0" }, { name: "eth0", sandbox: pod.path }],
    ips: [{ address: "10.9.0.2/24", interface: 1 }],
  };
  const envelope = { cniVersion: "1.0.0", name: "bench", prevResult };
  const chain = [{ program: "count" }, { program: "acl" }, { program: "count" }];
  const remora = { ...envelope, type: "remora", programDirs: [programs], bpffs: join(world.bpffs(), "remora"), chain };
  const tuning = { ...envelope, type: "tuning", sysctl: { "net.ipv4.conf.eth0.rp_filter": "0" } };
  const bandwidth = { ...envelope, type: "bandwidth" };

  const time = (command: string, args: string[], env: Record<string, string>, input: string): number => {
    const begin = process.hrtime.bigint();
    const child = spawnSync(command, args, { env, input, encoding: "utf8" });
    const milliseconds = Number(process.hrtime.bigint() - begin) / 1e6;
    if (child.status !== 0) throw new Error(`${command}: exit ${child.status}: ${child.stdout}${child.stderr}`);
    return milliseconds;
  };
  const cni = (plugin: string, verb: string, config: object): number =>
    time(
      plugin,
      [],
      { CNI_COMMAND: verb, CNI_CONTAINERID: "bench", CNI_NETNS: pod.path, CNI_IFNAME: "eth0", CNI_PATH: plugins },
      JSON.stringify(config),
    );
  const launcher = join(dist, "remora");
  const add = (): number => cni(launcher, "ADD", remora);
  const del = (): number => cni(launcher, "DEL", remora);

  const times: Record<string, number[]> = { DEL: [] };
  const results = interleave(options.rounds, {
    "remora ADD": () => {
      const spent = add();
      times.DEL?.push(del());
      return spent;
    },
    "tuning ADD": () => cni(join(plugins, "tuning"), "ADD", tuning),
    "tuning DEL": () => cni(join(plugins, "tuning"), "DEL", tuning),
    "bandwidth ADD": () => cni(join(plugins, "bandwidth"), "ADD", bandwidth),
    "bandwidth DEL": () => cni(join(plugins, "bandwidth"), "DEL", bandwidth),
    "node -e 0": () => time(process.execPath, ["-e", "0"], {}, ""),
  });
  // The first of each was the warm-up, which `interleave` leaves out of the others.
  const all: Record<string, number[]> = { ...results, "remora DEL": times.DEL?.slice(1) ?? [] };
  const node = results["node -e 0"];
  const names = ["remora ADD", "remora DEL", "tuning ADD", "tuning DEL", "bandwidth ADD", "bandwidth DEL", "node -e 0"];
  const rows = names.map((name) => {
    const values = all[name] ?? [];
    return [name, `${median(values).toFixed(1)} ms`, ratio(values, node).toFixed(2)];
  });
  return `ADD and DEL as whole processes, a chain of three in each direction: medians of ${options.rounds} interleaved runs\n${table([["command", "median", "/ node -e 0"], ...rows])}`;
}
