// SPDX-License-Identifier: Apache-2.0
/**
 * Changes a pod's chain under traffic (see soak.ts), in the network namespace of the node, where the host's end of the
 * pod's pair is. Usage: driver.ts WORK, as JSON. Prints how many changes are done, from time to time, and the figures: a
 * line of JSON each.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { findAttachments } from "../../plugin/chain/attachments.ts";
import { u32 } from "../../plugin/chain/bytes.ts";
import { check } from "../../plugin/chain/check.ts";
import { chainPlaces, directionAt } from "../../plugin/chain/places.ts";
import { readRecord } from "../../plugin/chain/record.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import type { KernelPort } from "../../plugin/kernel/port.ts";
import type { AttachmentStatus, HookName } from "../../plugin/model.ts";
import { remora } from "../lib/pod.ts";
import type { Figures } from "./soak.ts";

export interface Work {
  /** The program directory. */
  programs: string;
  /** Of the rolling program: objects, of which the first is refused. */
  versions: string[];
  /** The executable that sends and receives. */
  traffic: string;
  bpffs: string;
  /** Its chain is attached first, or is there already. */
  pod: { netns: string; address: string; attach: boolean };
  /** The node's. */
  address: string;
  changes: number;
  /** The changes are spread over at least so long. */
  seconds: number;
  rate: number;
  hook: HookName;
}

/**
 * The chain of a turn, as JSON: the guards go round, and every other chain is longer. One guard stands in the pod and at the
 * host's end by turns, the other always at the host's end. Without TCX both always stand in the pod.
 */
export function chain(number: number, hook: HookName): string {
  const stamp = (place: number, last = 0) => ({
    program: "stamp",
    params: { generation: number, place, last },
  });
  const list: object[] = [stamp(0), { program: "rolling" }, stamp(1), stamp(2, 1)];
  if (hook === "clsact") {
    for (const port of [7001, 7003]) list.splice((number + port) % 4, 0, { program: "guard", params: { port } });
    if (number % 2 === 0) list.splice(2, 0, { program: "filler" });
    return JSON.stringify(list);
  }
  const inPod = number % 2 === 1;
  if (inPod) list.splice((number >> 1) % 4, 0, { program: "guard", params: { port: 7001 } });
  else list.splice(2, 0, { program: "filler" });
  const seal = (place: number, last = 0) => ({
    program: "seal",
    params: { generation: number, place, last, silent: 1 },
    directions: ["egress"],
  });
  const atHost: object[] = [seal(0), seal(1, 1)];
  for (const port of inPod ? [7003] : [7001, 7003]) atHost.splice(number % 3, 0, { program: "wall", params: { port } });
  // On ingress the wall stands in the pod, before all others.
  return JSON.stringify([...atHost, ...list]);
}

async function drive(kernel: KernelPort, work: Work, progress: (done: number) => void): Promise<Figures> {
  const { bpffs, pod, address } = work;
  const where = ["--bpffs", bpffs, "--dir", work.programs];
  const roll = (version: number): void => {
    const fresh = join(work.programs, "rolling.fresh");
    copyFileSync(work.versions[version] ?? "", fresh);
    renameSync(fresh, join(work.programs, "rolling.bpf.o"));
  };
  roll(1);
  if (pod.attach) {
    const on = ["--netns", pod.netns, "--ifname", "eth0", "--container", "soak", "--hook", work.hook];
    await succeed("attach", ...on, "--programs", chain(1, work.hook), ...where);
  }
  const [attachment] = findAttachments(kernel, bpffs);
  if (!attachment) throw new Error("nothing is attached");
  const container = attachment.id.containerId;
  const statusOf = async (): Promise<AttachmentStatus> => {
    const { stdout, stderr } = await remora("status", container, "--json", "--bpffs", bpffs);
    if (stderr !== "") throw new Error(stderr);
    return JSON.parse(stdout).attachments[0];
  };
  const host = kernel.findPeer(pod.netns, "eth0").ifname;
  const inPod = (command: string, ...args: string[]): string =>
    execFileSync("nsenter", [`--net=${pod.netns}`, command, ...args], { encoding: "utf8" });
  const onNode = (command: string, ...args: string[]): string => execFileSync(command, args, { encoding: "utf8" });
  keepNeighbours(inPod, onNode, host, work);

  const ends = ["/proc/self/ns/net", address, pod.netns, pod.address];
  using traffic = await startTraffic(work.traffic, [...ends, String(work.rate)]);
  const times: number[] = [];
  let refusals = 0;
  let generation = 1;
  const begun = performance.now();
  for (let turn = 1; times.length < work.changes; turn++) {
    const broken = turn % 10 === 0;
    roll(broken ? 0 : 1 + (turn % 2));
    const started = performance.now();
    const outcome = await remora("apply", container, "--programs", chain(turn + 1, work.hook), "--json", ...where);
    if (broken) {
      if (outcome.status !== 1 || !/rolling .* in the \w+ chain/.test(outcome.stderr))
        throw new Error(`turn ${turn}: a broken program was not refused: ${outcome.stdout}${outcome.stderr}`);
      refusals++;
    } else {
      if (outcome.status !== 0) throw new Error(`turn ${turn}: ${outcome.stderr}`);
      times.push(performance.now() - started);
      generation++;
    }
    const found = (await statusOf()).generation;
    if (found !== generation) throw new Error(`turn ${turn}: generation ${found}, not ${generation}`);
    if (turn % 100 === 0) progress(times.length);
    // The traffic's turn: this process does not leave the processors while it changes.
    const due = begun + (times.length * work.seconds * 1000) / work.changes;
    await new Promise((resolve) => setTimeout(resolve, Math.max(1, due - performance.now())));
  }
  const seen = await traffic.end();
  // A veth counts as dropped what its peer's side could not queue, behind this end's egress hook and before the other's ingress.
  seen.toPod.queueFull = droppedBy(onNode("cat", "/proc/net/dev"), host);
  seen.fromPod.queueFull = droppedBy(inPod("cat", "/proc/net/dev"), "eth0");
  check(kernel, bpffs, attachment.id, pod.netns);
  const status = await statusOf();
  if (status.hook !== work.hook) throw new Error(`it hangs on ${status.hook}`);
  times.sort((a, b) => a - b);
  const figures = {
    ...seen,
    changes: times.length,
    refusals,
    median: times[times.length >> 1] ?? 0,
    longest: times.at(-1) ?? 0,
    ...counts(kernel, bpffs, status),
  };
  if (pod.attach) await succeed("detach", container, "--bpffs", bpffs);
  return figures;
}

/**
 * On a machine under load a neighbour's answer can come too late, and what waits for it is dropped. What is asked here is not
 * whether neighbours are found.
 */
function keepNeighbours(
  inPod: (command: string, ...args: string[]) => string,
  onNode: (command: string, ...args: string[]) => string,
  host: string,
  { pod, address }: Work,
): void {
  const mac = (text: string): string => /link\/ether (\S+)/.exec(text)?.[1] ?? "";
  const entry = (to: string, lladdr: string, dev: string) =>
    ["neigh", "replace", to, "lladdr", lladdr, "dev", dev, "nud", "permanent"] as const;
  inPod("ip", ...entry(address, mac(onNode("ip", "link", "show", "dev", host)), "eth0"));
  onNode("ip", ...entry(pod.address, mac(inPod("ip", "link", "show", "dev", "eth0")), host));
}

/** Of what it was to send, from /proc/net/dev: sysfs shows the namespace in which it was mounted. */
function droppedBy(text: string, ifname: string): number {
  const line = text.split("\n").find((each) => each.trim().startsWith(`${ifname}:`)) ?? "";
  return Number(line.split(":")[1]?.trim().split(/\s+/)[11] ?? Number.NaN);
}

async function succeed(...argv: string[]): Promise<void> {
  const { status, stderr } = await remora(...argv);
  if (status !== 0) throw new Error(`remora ${argv[0]}: ${stderr}`);
}

/** What maps that were carried through every change hold, against the counters that were. */
function counts(kernel: KernelPort, bpffs: string, status: AttachmentStatus) {
  const [found] = findAttachments(kernel, bpffs);
  const record = found && readRecord(kernel, found.pins);
  const sums = { stamped: 0, counted: 0, mixedInChain: 0, broken: 0, rolled: 0, rolledCounted: 0 };
  for (const place of chainPlaces) {
    const shown = status[directionAt(place)].filter(({ at }) => at === (place === "host" ? "host" : "pod"));
    for (const [position, { entries, maps }] of (record?.chains[place]?.stages ?? []).entries()) {
      const [entry] = entries;
      const read = (name: string, row: number): number => {
        const map = kernel.openMapById(maps.find((each) => each.name === name)?.id ?? 0);
        const value = kernel.lookupMap(map, u32(row));
        kernel.close(map);
        return Number(value?.readBigUInt64LE() ?? 0n);
      };
      const packets = shown[position]?.packets ?? 0;
      sums.broken += shown[position]?.ended.broken ?? 0;
      if (entry?.params.last === 1) {
        sums.stamped += read("counts", 0);
        sums.mixedInChain += read("counts", 1);
        sums.counted += packets;
      }
      if (entry?.program === "rolling") {
        sums.rolled += read("packets", 1) + read("packets", 2);
        sums.rolledCounted += packets;
      }
    }
  }
  return sums;
}

interface Traffic extends Disposable {
  /** Lets the last packets arrive. */
  end(): Promise<Pick<Figures, "seconds" | "toPod" | "fromPod">>;
}

async function startTraffic(program: string, argv: string[]): Promise<Traffic> {
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

const [work] = process.argv.slice(2);
if (import.meta.main) {
  const say = (what: unknown): void => console.log(JSON.stringify(what));
  say(await drive(createNativeKernel(), JSON.parse(work ?? ""), say));
}
