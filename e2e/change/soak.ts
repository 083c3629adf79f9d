// SPDX-License-Identifier: Apache-2.0
/**
 * Changes of a pod's chain, one after the other, under traffic in both directions that misses nothing (fixtures/traffic.c).
 * Each generation's stamps carry its number, so that a packet that met two generations would tell; each has its guards, in
 * another place each time, one of them at the host's end of the pair; one program rolls from version to version, and every
 * tenth version is one that the verifier refuses.
 *
 * The pod is a network namespace, or one of containerd's. What changes it (driver.ts) runs on the node: where the host's end is.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { HookName } from "../../plugin/model.ts";
import { run, type Scratch, scratch } from "../lib/scratch.ts";
import { chain, type Work } from "./driver.ts";

const fixtures = join(import.meta.dirname, "fixtures");

/** What the traffic saw of one direction. */
export interface Flow {
  sent: number;
  perSecond: number;
  received: number;
  missing: number;
  /** The first sequence number that is missing; -1 for none. */
  firstMissing: number;
  /** Dropped by the receiver's socket: they had passed the chain. */
  overflowed: number;
  /** Dropped between the two devices, where the processor's queue for all packets of the machine was full: no chain's doing. */
  queueFull: number;
  duplicated: number;
  mixed: number;
  unstamped: number;
  guardedSent: number;
  leaked: number;
  generations: number;
  refused: number;
  streamSent: number;
  streamReceived: number;
  streamWrong: number;
  retransmitted: number;
}
export interface Figures {
  seconds: number;
  toPod: Flow;
  fromPod: Flow;
  /** Chains that were switched to, and new ones that were refused. */
  changes: number;
  refusals: number;
  /** Milliseconds of a change: middle and longest. */
  median: number;
  longest: number;
  /** Of packets that reached the last stamp: by its own map, by the counters of `status`; and how many of them were mixed. */
  stamped: number;
  counted: number;
  mixedInChain: number;
  /** Packets of a chain that could not go on. */
  broken: number;
  /** By the rolling program's map, which both its versions share, and by the counters. */
  rolled: number;
  rolledCounted: number;
}

export interface SoakOptions {
  changes: number;
  /** Datagrams to the pod a second that are tried for; a fifth of it comes back. */
  rate: number;
  /** Over which the changes are spread, where they take less. */
  seconds?: number;
  /** A pod of containerd's, behind ptp. */
  pod?: boolean;
  /** The chain hangs on TCX where nothing is said; on clsact nothing stands at the host's end. */
  hook?: HookName;
  progress?: (done: number) => void;
}

/** @throws where a change does not end as it must, or CHECK finds a difference. */
export function soak(options: SoakOptions): Promise<Figures> {
  return options.pod ? soakPod(options) : soakNamespace(options);
}

async function soakNamespace({ changes, rate, seconds = 0, hook = "tcx", progress }: SoakOptions): Promise<Figures> {
  using world = scratch();
  const [pod, host] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: pod, ifname: "eth0", addresses: ["10.77.0.2/24"] },
    { namespace: host, ifname: "host0", addresses: ["10.77.0.1/24"] },
  );
  const made = prepare(world);
  const work: Work = {
    ...made,
    bpffs: `${world.bpffs()}/remora`,
    pod: { netns: pod.path, address: "10.77.0.2", attach: true },
    address: "10.77.0.1",
    changes,
    rate,
    hook,
    seconds,
  };
  const drive = [process.execPath, join(import.meta.dirname, "driver.ts"), JSON.stringify(work)];
  return await figuresOf(
    spawn("nsenter", [`--net=${host.path}`, ...drive], { stdio: ["ignore", "pipe", "pipe"] }),
    progress,
  );
}

async function soakPod({ changes, rate, seconds = 0, progress }: SoakOptions): Promise<Figures> {
  // Other kernels' machines have no containerd, nor what speaks to it.
  const { ptp, remora, startNode } = await import("../containerd/node.ts");
  using world = scratch();
  const made = prepare(world);
  using node = await startNode({ plugins: [ptp(), remora({ programDirs: [made.programs] })] });
  const pod = await node.runPod({ name: "soak", annotations: { "remora.io/programs": chain(1, "tcx") } });
  const work: Work = {
    ...made,
    bpffs: join(node.bpffs, "remora"),
    pod: { netns: pod.netns, address: pod.ip, attach: false },
    address: "10.77.0.1",
    changes,
    rate,
    hook: "tcx",
    seconds,
  };
  const drive = [join(import.meta.dirname, "driver.ts"), JSON.stringify(work)];
  const figures = await figuresOf(node.spawn(process.execPath, drive, { stdio: ["ignore", "pipe", "pipe"] }), progress);
  await pod.remove();
  return figures;
}

/** What the driver says: a line for each so many changes, and the figures at last. */
async function figuresOf(driver: ChildProcess, progress: SoakOptions["progress"] = () => {}): Promise<Figures> {
  if (!driver.stdout || !driver.stderr) throw new Error("no output");
  let said = "";
  driver.stderr.on("data", (text) => {
    said += text;
  });
  const ended = new Promise((resolve) => driver.once("close", resolve));
  try {
    for await (const line of createInterface({ input: driver.stdout })) {
      const told = JSON.parse(line);
      if (typeof told !== "number") return told;
      progress(told);
    }
  } finally {
    await ended;
  }
  throw new Error(`the driver ended early: ${said}`);
}

/** Compiles the programs into a program directory, and what sends the traffic. */
function prepare(world: Scratch): Pick<Work, "programs" | "versions" | "traffic"> {
  const directory = join(world.dir, "programs");
  mkdirSync(directory, { mode: 0o755 });
  const put = (from: string, name: string): void => copyFileSync(from, join(directory, `${name}.bpf.o`));
  const [stamp, guard] = ["stamp", "guard"].map((name) => world.compile(join(fixtures, `${name}.bpf.c`))) as [
    string,
    string,
  ];
  // The same under another name is another program: these stand at the host's end.
  for (const name of ["stamp", "seal"]) put(stamp, name);
  for (const name of ["guard", "filler", "wall"]) put(guard, name);
  for (const name of ["seal", "wall"]) writeFileSync(join(directory, `${name}.yaml`), "at: host\n", { mode: 0o644 });
  const versions = [0, 1, 2].map((version) => {
    const object = join(world.dir, `rolling-${version}`);
    renameSync(world.compile(join(fixtures, "rolling.bpf.c"), { flags: [`-DVERSION=${version}`] }), object);
    return object;
  });
  copyFileSync(versions[1] as string, join(directory, "rolling.bpf.o"));
  const traffic = join(world.dir, "traffic");
  run("cc", "-O2", "-pthread", "-o", traffic, join(fixtures, "traffic.c"));
  return { programs: directory, versions, traffic };
}

/** Every figure that must be as it must: what is wrong, in words. */
export function faults(figures: Figures): string[] {
  const wrong: string[] = [];
  for (const name of ["toPod", "fromPod"] as const) {
    const flow = figures[name];
    const lost = lostOf(flow);
    if (lost > 0) wrong.push(`${name}: ${lost} datagrams lost, the first is number ${flow.firstMissing}`);
    for (const what of ["duplicated", "mixed", "unstamped", "leaked", "streamWrong"] as const)
      if (flow[what] !== 0) wrong.push(`${name}: ${flow[what]} ${what}`);
    if (flow.sent < 1000 || flow.guardedSent < 5) wrong.push(`${name}: too few packets to tell anything`);
    if (flow.streamSent === 0 || flow.streamSent !== flow.streamReceived) wrong.push(`${name}: the stream has a hole`);
    if (flow.generations < figures.changes / 2) wrong.push(`${name}: met only ${flow.generations} generations`);
  }
  if (figures.broken !== 0) wrong.push(`${figures.broken} packets met a broken chain`);
  if (figures.mixedInChain !== 0) wrong.push(`${figures.mixedInChain} packets met a mixed chain`);
  if (figures.stamped !== figures.counted || figures.rolled !== figures.rolledCounted)
    wrong.push("maps and counters do not agree: one of them lost something on the way");
  return wrong;
}

/** Datagrams that are missing, less those of which it is known where they were dropped, and that it was not in a chain. */
function lostOf({ missing, overflowed, queueFull }: Flow): number {
  return Math.max(0, missing - overflowed - queueFull);
}

/** The figures for people. */
export function report(figures: Figures): string {
  const number = (value: number): string => Math.round(value).toLocaleString("en");
  const rows = (["toPod", "fromPod"] as const).map((name) => {
    const flow = figures[name];
    return `${name === "toPod" ? "to the pod  " : "from the pod"}  ${number(flow.sent)} datagrams (${number(flow.perSecond)} a second), \
lost ${lostOf(flow)}, duplicated ${flow.duplicated}, mixed ${flow.mixed}, \
past the guard ${flow.leaked} of ${number(flow.guardedSent)}; TCP ${number(flow.streamReceived / 1e6)} MB, \
wrong ${flow.streamWrong}, retransmitted ${flow.retransmitted}; dropped outside of the chain: \
by the socket ${flow.overflowed}, by the full queue between the devices ${flow.queueFull}`;
  });
  return [
    `${number(figures.changes)} changes in ${figures.seconds.toFixed(1)} s (median ${figures.median.toFixed(1)} ms, longest ${figures.longest.toFixed(0)} ms), \
${figures.refusals} broken ones refused`,
    ...rows,
    `in the chain   ${number(figures.stamped)} packets at the last stamp, ${figures.mixedInChain} mixed, ${figures.broken} broken off; counters and maps that went through \
every change: ${number(figures.counted)} and ${number(figures.stamped)}, ${number(figures.rolledCounted)} and ${number(figures.rolled)}`,
  ].join("\n");
}
