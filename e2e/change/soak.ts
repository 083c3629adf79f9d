// SPDX-License-Identifier: Apache-2.0
/**
 * Changes of a pod's chain, one after the other, under traffic in both directions that misses nothing (fixtures/traffic.c).
 * Each generation's stamps carry its number, so that a packet that met two generations would tell; each has the guard, in
 * another place each time; one program rolls from version to version, and every tenth version is one that the verifier refuses.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { findAttachments } from "../../plugin/chain/attachments.ts";
import { u32 } from "../../plugin/chain/bytes.ts";
import { check } from "../../plugin/chain/check.ts";
import { readRecord } from "../../plugin/chain/record.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { directions } from "../../plugin/kernel/port.ts";
import type { AttachmentStatus, HookName } from "../../plugin/model.ts";
import { remora } from "../lib/pod.ts";
import { type Namespace, run, type Scratch, scratch } from "../lib/scratch.ts";

const fixtures = join(import.meta.dirname, "fixtures");
const kernel = createNativeKernel();

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
  hook?: HookName;
  progress?: (done: number) => void;
}

/** @throws where a change does not end as it must, or CHECK finds a difference. */
export async function soak({ changes, rate, hook = "tcx", progress = () => {} }: SoakOptions): Promise<Figures> {
  using world = scratch();
  const [pod, peer] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: pod, ifname: "eth0", addresses: ["10.77.0.2/24"] },
    { namespace: peer, ifname: "peer0", addresses: ["10.77.0.1/24"] },
  );
  const programs = prepare(world);
  const bpffs = `${world.bpffs()}/remora`;
  const where = ["--bpffs", bpffs, "--dir", programs.directory];
  programs.roll(1);
  await succeed(
    "attach",
    "--netns",
    pod.path,
    "--ifname",
    "eth0",
    "--container",
    "soak",
    "--hook",
    hook,
    "--programs",
    chain(1),
    ...where,
  );

  using traffic = await startTraffic(world, [peer.path, "10.77.0.1", pod.path, "10.77.0.2", String(rate)]);
  const times: number[] = [];
  let refusals = 0;
  let generation = 1;
  for (let turn = 1; times.length < changes; turn++) {
    const broken = turn % 10 === 0;
    programs.roll(broken ? 0 : 1 + (turn % 2));
    const started = performance.now();
    const outcome = await remora("apply", "soak", "--programs", chain(turn + 1), "--json", ...where);
    if (broken) {
      if (outcome.status !== 1 || !/rolling .* in the \w+ chain/.test(outcome.stderr))
        throw new Error(`turn ${turn}: a broken program was not refused: ${outcome.stdout}${outcome.stderr}`);
      refusals++;
    } else {
      if (outcome.status !== 0) throw new Error(`turn ${turn}: ${outcome.stderr}`);
      times.push(performance.now() - started);
      generation++;
    }
    const found = (await statusOf(bpffs)).generation;
    if (found !== generation) throw new Error(`turn ${turn}: generation ${found}, not ${generation}`);
    if (turn % 100 === 0) progress(times.length);
    // The traffic's turn: this process does not leave the processors while it changes.
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  const seen = await traffic.end();
  seen.toPod.queueFull = dropped(peer, "peer0");
  seen.fromPod.queueFull = dropped(pod, "eth0");
  const [attachment] = findAttachments(kernel, bpffs);
  if (!attachment) throw new Error("nothing is attached any more");
  check(kernel, bpffs, attachment.id, pod.path);
  const status = await statusOf(bpffs);
  if (status.hook !== hook) throw new Error(`it hangs on ${status.hook}`);
  times.sort((a, b) => a - b);
  const figures = {
    ...seen,
    changes: times.length,
    refusals,
    median: times[times.length >> 1] ?? 0,
    longest: times.at(-1) ?? 0,
    ...counts(bpffs, status),
  };
  await succeed("detach", "soak", "--bpffs", bpffs);
  return figures;
}

/** A veth counts as dropped what its peer's side could not queue, behind this end's egress hook and before the other's ingress. */
function dropped(namespace: Namespace, ifname: string): number {
  return Number(namespace.exec("cat", `/sys/class/net/${ifname}/statistics/tx_dropped`));
}

/** The chain of a turn, as JSON: the guard goes round, and every other chain is longer. */
function chain(number: number): string {
  const stamp = (place: number, last = 0) => ({
    program: "stamp",
    params: { generation: number, place, last },
  });
  const list: object[] = [stamp(0), { program: "rolling" }, stamp(1), stamp(2, 1)];
  list.splice(number % 4, 0, { program: "guard" });
  if (number % 2 === 0) list.splice(2, 0, { program: "filler" });
  return JSON.stringify(list);
}

interface Programs {
  directory: string;
  /** Puts another version in place; 0 is one that the verifier refuses. */
  roll(version: number): void;
}

function prepare(world: Scratch): Programs {
  const directory = join(world.dir, "programs");
  mkdirSync(directory, { mode: 0o755 });
  for (const name of ["stamp", "guard"])
    copyFileSync(world.compile(join(fixtures, `${name}.bpf.c`)), join(directory, `${name}.bpf.o`));
  copyFileSync(join(directory, "guard.bpf.o"), join(directory, "filler.bpf.o"));
  const versions = [0, 1, 2].map((version) => {
    const object = join(world.dir, `rolling-${version}`);
    renameSync(world.compile(join(fixtures, "rolling.bpf.c"), { flags: [`-DVERSION=${version}`] }), object);
    return object;
  });
  return {
    directory,
    roll(version) {
      const fresh = join(world.dir, "fresh");
      copyFileSync(versions[version] ?? "", fresh);
      renameSync(fresh, join(directory, "rolling.bpf.o"));
    },
  };
}

async function succeed(...argv: string[]): Promise<void> {
  const { status, stderr } = await remora(...argv);
  if (status !== 0) throw new Error(`remora ${argv[0]}: ${stderr}`);
}

async function statusOf(bpffs: string): Promise<AttachmentStatus> {
  const { stdout, stderr } = await remora("status", "soak", "--json", "--bpffs", bpffs);
  if (stderr !== "") throw new Error(stderr);
  return JSON.parse(stdout).attachments[0];
}

/** What maps that were carried through every change hold, against the counters that were. */
function counts(bpffs: string, status: AttachmentStatus) {
  const [found] = findAttachments(kernel, bpffs);
  const record = found && readRecord(kernel, found.pins);
  const sums = { stamped: 0, counted: 0, mixedInChain: 0, broken: 0, rolled: 0, rolledCounted: 0 };
  for (const direction of directions)
    for (const [position, { entries, maps }] of (record?.chains[direction]?.stages ?? []).entries()) {
      const [entry] = entries;
      const read = (name: string, row: number): number => {
        const map = kernel.openMapById(maps.find((each) => each.name === name)?.id ?? 0);
        const value = kernel.lookupMap(map, u32(row));
        kernel.close(map);
        return Number(value?.readBigUInt64LE() ?? 0n);
      };
      const packets = status[direction][position]?.packets ?? 0;
      sums.broken += status[direction][position]?.ended.broken ?? 0;
      if (entry?.program === "stamp" && entry.params.last === 1) {
        sums.stamped += read("counts", 0);
        sums.mixedInChain += read("counts", 1);
        sums.counted += packets;
      }
      if (entry?.program === "rolling") {
        sums.rolled += read("packets", 1) + read("packets", 2);
        sums.rolledCounted += packets;
      }
    }
  return sums;
}

interface Traffic extends Disposable {
  /** Lets the last packets arrive. */
  end(): Promise<Pick<Figures, "seconds" | "toPod" | "fromPod">>;
}

async function startTraffic(world: Scratch, argv: string[]): Promise<Traffic> {
  const program = join(world.dir, "traffic");
  run("cc", "-O2", "-pthread", "-o", program, join(fixtures, "traffic.c"));
  const child: ChildProcess = spawn(program, argv, { stdio: ["pipe", "pipe", "inherit"] });
  if (!child.stdout) throw new Error("no output");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new Error("the traffic ended early");
    return value;
  };
  if ((await next()) !== "running") throw new Error("the traffic does not run");
  return {
    async end() {
      child.stdin?.end("\n");
      return JSON.parse(await next());
    },
    [Symbol.dispose]: () => void child.kill("SIGKILL"),
  };
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
