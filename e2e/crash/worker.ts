// SPDX-License-Identifier: Apache-2.0
/**
 * One process of the crash matrix: takes its share of a verb's points, in a world of its own, and prints a `Report` as JSON.
 * Most of what it does is waiting for the kernel, so that several of them side by side take hardly longer than one.
 *
 * Usage: worker.ts VERB SHARE SHARES HOST PROGRAMS DOOMED HOOK EVERY, shares counted from 0. Of EVERY points one is tried, and all
 * that have to do with filters; where EVERY is `handful`, few are, and only with SIGKILL: for a processor that is emulated. HOST is
 * the network namespace that it runs in: the node's, where the other end of the pod's pair is. PROGRAMS is their folder, DOOMED is
 * doomed.ts, ready to run.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { collect } from "../../plugin/chain/collect.ts";
import { hooks } from "../../plugin/chain/hook.ts";
import { RemoraError } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import type { HookName } from "../../plugin/model.ts";
import { run, type Scratch, scratch } from "../lib/scratch.ts";
import { faulty, inputOutputError } from "./faults.ts";
import { lastWords, type Scene, type State, type VerbName, verbs, verbsOf } from "./scene.ts";

export interface Report {
  /** Of the verb, when nothing goes wrong. */
  operations: string[];
  /** Points that were tried and, of those that went wrong, what; by mode. */
  tried: Record<Mode, number>;
  /** What the killed have left: so many different states, each of which was recovered from in every way. */
  states: number;
  wrong: Record<Mode, string[]>;
  /** Every BPF object that was made by what then failed or died. */
  made: string[];
}
export type Mode = "EIO" | "SIGKILL";

const real = createNativeKernel();
const ways = ["repeat", "collect"] as const;
type Way = (typeof ways)[number];

/** A bpffs and a pod, whose other end is in the namespace that this process runs in. */
function sceneIn(world: Scratch): Scene {
  const pod = world.namespace();
  run("ip", "-n", pod.name, "link", "add", "eth0", "type", "veth", "peer", "host0", "netns", host);
  return { programs, bpffs: join(world.bpffs(), "remora"), netns: pod.path, hook };
}

/** Everything pinned, as paths below the bpffs. */
function pins({ bpffs }: Scene): string[] {
  const names = readdirSync(join(bpffs, ".."), { recursive: true }).map(String);
  return names.filter((name) => name !== "maps.debug" && name !== "progs.debug");
}

/** The first programs of links or filters that carry packets, by their pins. Links without a pin died with their process. */
function heads(scene: Scene): Record<string, number> {
  const attached: Record<string, number> = {};
  for (const name of pins(scene).filter((each) => /\/(link|filter)_[a-z]+$/.test(each))) {
    const found = hooks[name.includes("link_") ? "tcx" : "clsact"].state(real, join(scene.bpffs, "..", name));
    if (found.state === "attached") attached[name] = found.programId;
  }
  return attached;
}

/** What hangs on the pod's qdisc, of whomever, and whether there is one. */
function filters({ netns }: Scene): string[] {
  const { ifindex } = real.findInterface(netns, "eth0");
  const places = (["ingress", "egress"] as const).map((direction) => ({ netns, ifindex, direction }));
  const found = places.flatMap((place) => real.listFilters(place).map(() => `a filter on ${place.direction}`));
  for (const one of new Set(found))
    assert.is(found.filter((other) => other === one).length, 1, `there are two of ${one}`);
  return places.some((place) => real.hasQdisc(place)) ? ["a clsact qdisc", ...found] : found;
}

/** The same for crashes that leave the same: what is pinned, and which links carry packets to which chain. */
function leftBehind(scene: Scene): string {
  const all = pins(scene);
  const chains: Record<number, string> = {};
  for (const name of all.filter((each) => each.endsWith("/chain"))) {
    const { fd } = real.openPin(join(scene.bpffs, "..", name));
    const head = real.lookupMap(fd, Buffer.alloc(4))?.readUInt32LE();
    real.close(fd);
    if (head !== undefined) chains[head] = name;
  }
  const links = Object.entries(heads(scene)).map(([name, head]) => `${name} -> ${chains[head]}`);
  return [...all, ...links, ...filters(scene)].sort().join("\n");
}

/** Whole as CHECK sees it, or not there at all, or half: only one of its links carries packets. */
async function state(scene: Scene): Promise<State> {
  const { verbs: ours, asked } = verbsOf(real, scene);
  try {
    await ours.check(asked);
    return "attached";
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    return Object.keys(heads(scene)).length > 0 ? "half" : "nothing";
  }
}

/** Each way back, from whatever a crash has left. A DEL alone is one, too. */
async function recover(scene: Scene, verb: VerbName, way: Way): Promise<void> {
  if (way === "collect") {
    const { failed } = collect(real, scene.bpffs, { graceSeconds: 0 });
    assert.equal(failed, [], "gc");
    const carrying = Object.keys(heads(scene)).length;
    const now = await state(scene);
    assert.ok((verbs[verb].failed as readonly State[]).includes(now), `after gc the attachment is ${now}`);
    if (now === "attached") assert.is(Object.keys(heads(scene)).length, carrying, "CHECK had to finish what gc left");
    else assert.equal([...pins(scene), ...filters(scene)], [], "after gc");
  }
  await verbs[verb].run(real, scene);
  assert.is(await state(scene), verbs[verb].after, "after the repeated verb");
  await remove(scene);
}

async function remove(scene: Scene): Promise<void> {
  await verbs.DEL.run(real, scene);
  const left = [...pins(scene), ...filters(scene)];
  assert.equal(left, [], `after DEL: ${left.join(", ")}; it said ${lastWords.join(", ")}`);
}

/** How many operations a verb has, when nothing goes wrong. */
async function operationsOf(scene: Scene, verb: VerbName): Promise<string[]> {
  await verbs[verb].prepare(real, scene);
  const { kernel, operations } = faulty(real, 0, inputOutputError);
  await verbs[verb].run(kernel, scene);
  await verbs.DEL.run(real, scene);
  return operations;
}

const descriptors = (): number => readdirSync("/proc/self/fd").length;

async function fail(scene: Scene, verb: VerbName, at: number, way: Way, made: string[]): Promise<void> {
  await verbs[verb].prepare(real, scene);
  const before = descriptors();
  const { kernel } = faulty(real, at, inputOutputError, (object) => made.push(object));
  let failed = false;
  try {
    await verbs[verb].run(kernel, scene);
  } catch (error) {
    assert.instance(error, RemoraError);
    failed = true;
  }
  assert.is(descriptors(), before, "descriptors");
  // Who could take back what it did has taken it back.
  if (failed && verb === "ADD") assert.equal([...pins(scene), ...filters(scene)], [], "after a failed ADD");
  const now = await state(scene);
  if (!failed && verb !== "DEL") assert.is(now, verbs[verb].after, "after a success");
  const allowed: readonly State[] = verbs[verb].failed;
  // A filter that could not be taken off stays until gc, or the next DEL, does it: its kernel does not do it by itself.
  const halfDone = now === "half" && scene.hook === "clsact" && allowed.includes("nothing");
  assert.ok(allowed.includes(now) || halfDone, `the attachment is ${now}`);
  await recover(scene, verb, way);
}

/** What is left the same as after an earlier kill is only removed; from what is new the other ways back are tried as well. */
async function kill(scene: Scene, verb: VerbName, at: number, known: Set<string>, made: string[]): Promise<void> {
  await killAt(scene, verb, at, made);
  const left = leftBehind(scene);
  if (known.has(left)) return remove(scene);
  known.add(left);
  const [first, ...others] = every === "handful" ? (["collect"] as const) : ways;
  await recover(scene, verb, first);
  for (const way of others) {
    await killAt(scene, verb, at, made);
    assert.is(leftBehind(scene), left, "the same crash leaves the same");
    await recover(scene, verb, way);
  }
}

async function killAt(scene: Scene, verb: VerbName, at: number, made: string[]): Promise<void> {
  await verbs[verb].prepare(real, scene);
  const journal = join(world.dir, "journal");
  rmSync(journal, { force: true });
  const child = spawn(process.execPath, [doomed, verb, String(at), journal, JSON.stringify(scene)], {
    stdio: ["ignore", "inherit", "pipe"],
  });
  let said = "";
  child.stderr?.on("data", (data) => {
    said += data;
  });
  const [status, signal] = await once(child, "close");
  assert.equal([status, signal], [null, "SIGKILL"], `the child was to be killed: ${said}`);
  if (existsSync(journal)) made.push(...readFileSync(journal, "utf8").trim().split("\n"));
}

const [verb, share, shares] = [process.argv[2] as VerbName, Number(process.argv[3]), Number(process.argv[4])];
const [host = "", programs = "", doomed = "", hookName = ""] = process.argv.slice(5);
const hook = hookName as HookName;
const every = process.argv[9] ?? "";
using world = scratch();
const scene = sceneIn(world);
const operations = await operationsOf(scene, verb);
const report: Report = {
  operations,
  tried: { EIO: 0, SIGKILL: 0 },
  wrong: { EIO: [], SIGKILL: [] },
  states: 0,
  made: [],
};

async function attempt(mode: Mode, at: number, act: () => Promise<void>): Promise<void> {
  report.tried[mode]++;
  try {
    await act();
  } catch (error) {
    report.wrong[mode].push(`${at} (${operations[at - 1]}): ${(error as Error).message}`);
    await verbs.DEL.run(real, scene);
    run("find", join(scene.bpffs, ".."), "-mindepth", "1", "!", "-name", "*.debug", "-delete");
  }
}

/** Before the last operation of each kind that makes or ends an attachment: half of it is there then, or all but its name. */
function isDecisive(at: number): boolean {
  const name = operations[at - 1] ?? "";
  return /^(attach.*|renamePin|detach.*|removeQdisc)$/.test(name) && operations.lastIndexOf(name) === at - 1;
}
const concernsFilters = (at: number): boolean =>
  operations.slice(Math.max(at - 2, 0), at).some((name) => /ilter|disc/.test(name));

// Points that follow each other often leave the same: they are in one share.
const known = new Set<string>();
const first = Math.floor((share * operations.length) / shares);
const end = Math.floor(((share + 1) * operations.length) / shares);
const chosen = (at: number): boolean =>
  every === "handful" ? isDecisive(at) : at % Number(every) === 0 || concernsFilters(at);
for (let at = first + 1; at <= end; at++) {
  if (!chosen(at)) continue;
  // The two ways back take turns, from point to point.
  if (every !== "handful") await attempt("EIO", at, () => fail(scene, verb, at, ways[at % 2] as Way, report.made));
  await attempt("SIGKILL", at, () => kill(scene, verb, at, known, report.made));
}
report.states = known.size;
console.log(JSON.stringify(report));
