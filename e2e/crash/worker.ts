// SPDX-License-Identifier: Apache-2.0
/**
 * One process of the crash matrix: takes every nth point of a verb, in a world of its own, and prints a `Report` as JSON.
 * Most of what it does is waiting for the kernel, so that several of them side by side take hardly longer than one.
 *
 * Usage: worker.ts VERB SHARE SHARES, shares counted from 0.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { collect } from "../../plugin/chain/collect.ts";
import { RemoraError } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { run, type Scratch, scratch } from "../lib/scratch.ts";
import { faulty, inputOutputError } from "./faults.ts";
import { type Scene, type State, sources, type VerbName, verbs, verbsOf } from "./scene.ts";

export interface Report {
  /** Of the verb, when nothing goes wrong. */
  operations: string[];
  /** Cases that were tried and, of those that went wrong, what; by mode. */
  tried: Record<Mode, number>;
  wrong: Record<Mode, string[]>;
  /** Every BPF object that was made by what then failed or died. */
  made: string[];
}
export type Mode = "EIO" | "SIGKILL";

const real = createNativeKernel();
const ways = ["repeat", "collect"] as const;
type Way = (typeof ways)[number];

/** A bpffs and a pod. */
function sceneIn(world: Scratch): Scene {
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  for (const [name, { text, manifest }] of Object.entries(sources)) {
    run("cp", world.compile({ text, name }), programs);
    writeFileSync(join(programs, `${name}.yaml`), manifest);
  }
  const [pod, peer] = [world.namespace(), world.namespace()];
  world.veth({ namespace: pod, ifname: "eth0" }, { namespace: peer, ifname: "host0" });
  return { programs, bpffs: join(world.bpffs(), "remora"), netns: pod.path };
}

/** Everything pinned, as paths below the bpffs. */
function pins({ bpffs }: Scene): string[] {
  const names = readdirSync(join(bpffs, ".."), { recursive: true }).map(String);
  return names.filter((name) => name !== "maps.debug" && name !== "progs.debug");
}

/** Links that carry packets. Those without a pin died with their process. */
function attachedLinks(scene: Scene): number {
  const links = pins(scene).filter((name) => /\/link_[a-z]+$/.test(name));
  return links.filter((name) => {
    const { fd } = real.openPin(join(scene.bpffs, "..", name));
    const { ifindex } = real.linkInfo(fd);
    real.close(fd);
    return ifindex !== 0;
  }).length;
}

/** Whole as CHECK sees it, or not there at all, or half: only one of its links carries packets. */
async function state(scene: Scene): Promise<State> {
  const { verbs: ours, asked } = verbsOf(real, scene);
  try {
    await ours.check(asked);
    return "attached";
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    return attachedLinks(scene) > 0 ? "half" : "nothing";
  }
}

/** What must hold after a crash: first by what is there, then by each way back. */
async function recover(scene: Scene, verb: VerbName, mode: Mode, way: Way): Promise<void> {
  const allowed: readonly State[] = verbs[verb][mode === "SIGKILL" ? "killed" : "failed"];
  const allow = (now: State): void => assert.ok(allowed.includes(now), `the attachment is ${now}`);
  allow(await state(scene));
  if (way === "collect") {
    const { failed } = collect(real, scene.bpffs, { graceSeconds: 0 });
    assert.equal(failed, [], "gc");
    allow(await state(scene));
  }
  await verbs[verb].run(real, scene);
  assert.is(await state(scene), verbs[verb].after, "after the repeated verb");
  await verbs.DEL.run(real, scene);
  assert.equal(pins(scene), [], "after DEL");
}

async function prepare(scene: Scene, verb: VerbName): Promise<void> {
  if (verbs[verb].before === "attached") await verbs.ADD.run(real, scene);
}

/** How many operations a verb has, when nothing goes wrong. */
async function operationsOf(scene: Scene, verb: VerbName): Promise<string[]> {
  await prepare(scene, verb);
  const { kernel, operations } = faulty(real, 0, inputOutputError);
  await verbs[verb].run(kernel, scene);
  await verbs.DEL.run(real, scene);
  return operations;
}

const descriptors = (): number => readdirSync("/proc/self/fd").length;

async function fail(scene: Scene, verb: VerbName, at: number, way: Way, made: string[]): Promise<void> {
  await prepare(scene, verb);
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
  if (failed && verb === "ADD") assert.equal(pins(scene), [], "after a failed ADD");
  if (!failed && verb !== "DEL") assert.is(await state(scene), verbs[verb].after, "after a success");
  await recover(scene, verb, "EIO", way);
}

async function kill(scene: Scene, verb: VerbName, at: number, way: Way, made: string[]): Promise<void> {
  await prepare(scene, verb);
  const journal = join(scene.programs, "../journal");
  rmSync(journal, { force: true });
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, "doomed.ts"), verb, String(at), journal, JSON.stringify(scene)],
    {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, NODE_COMPILE_CACHE: join(scene.programs, "../cache") },
    },
  );
  let said = "";
  child.stderr?.on("data", (data) => {
    said += data;
  });
  const [status, signal] = await once(child, "close");
  assert.equal([status, signal], [null, "SIGKILL"], `the child was to be killed: ${said}`);
  if (existsSync(journal)) made.push(...readFileSync(journal, "utf8").trim().split("\n"));
  await recover(scene, verb, "SIGKILL", way);
}

const [verb, share, shares] = [process.argv[2] as VerbName, Number(process.argv[3]), Number(process.argv[4])];
using world = scratch();
const scene = sceneIn(world);
const operations = await operationsOf(scene, verb);
const report: Report = { operations, tried: { EIO: 0, SIGKILL: 0 }, wrong: { EIO: [], SIGKILL: [] }, made: [] };

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

for (let at = share + 1; at <= operations.length; at += shares) {
  // The two ways back take turns, from point to point.
  const turn = Math.floor(at / shares);
  await attempt("EIO", at, () => fail(scene, verb, at, ways[turn % 2] as Way, report.made));
  await attempt("SIGKILL", at, () => kill(scene, verb, at, ways[(turn + 1) % 2] as Way, report.made));
}
console.log(JSON.stringify(report));
