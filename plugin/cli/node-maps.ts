// SPDX-License-Identifier: Apache-2.0
/** `remora maps --node`: the maps that all pods of the node share; and lists of prefixes in them, changed under traffic. */

import { readFileSync } from "node:fs";
import { isPrefixKey, prefixKey } from "../catalog/address.ts";
import { openCatalog } from "../catalog/catalog.ts";
import { didYouMean, listed } from "../catalog/words.ts";
import { requireBpffs } from "../chain/bpffs.ts";
import { claimNodeMap, letGoNodeMap, listNodeMaps, type NodeMap, nodeMapsOf } from "../chain/node-maps.ts";
import { Handles } from "../chain/undo.ts";
import { code, RemoraError } from "../errors.ts";
import type { Fd, KernelPort, MapInfo } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { givenDirs } from "./chosen.ts";
import { type Arguments, type Call, type ExitStatus, type Options, UsageError } from "./command.ts";
import { standardDirs } from "./directories.ts";
import { type MapContents, readEntries, renderContents } from "./map-contents.ts";
import {
  applyDifference,
  type Difference,
  difference,
  type Prefixes,
  prefixesIn,
  prefixesOf,
  readPrefixes,
} from "./prefix-list.ts";
import { table } from "./table.ts";
import { type Page, pageFor, printable } from "./terminal.ts";

export const nodeOptions: Options = {
  node: { type: "boolean", help: "the maps that all pods of this node share" },
  add: { type: "string", multiple: true, value: "PREFIX", help: "with --node: puts it on the list" },
  remove: { type: "string", multiple: true, value: "PREFIX", help: "with --node: takes it off the list" },
  load: { type: "string", value: "FILE", help: "with --node: makes the list what the file says" },
  release: { type: "boolean", help: "with --node: the map goes when no pod uses it" },
  "dry-run": { type: "boolean", help: "only say what would be changed" },
  dir: { type: "string", multiple: true, value: "DIR", help: "a program directory, to make a map from" },
};

export const nodeHelp = `With --node: the maps that all pods of this node share, as their program's manifest or object
says; without PROGRAM all of them, a line each. A map whose keys are prefixes (acl's "denied") is
a list that can be changed: --add, --remove and --load hold from the next packet of every pod on.
A file has one prefix a line; what follows "#" or ";" is a comment. All of it is checked before
anything is changed; what is new is added first, then what is not in the file is removed. Two such
commands wait for each other. One that was killed leaves a list between the old and the new:
repeat it.

Where no pod uses the program yet, the map is made from the object in the program directories
(--dir, else as for "remora programs"). A map that was changed by hand stays when no pod uses it,
until --release. No map outlives a reboot: load the list again before pods start.

--json prints {"maps":[{"program","name","type","id","maxEntries","count":N|null,"kept":BOOLEAN,
"attachments":N|null}]}; with PROGRAM "keySize","valueSize","entries" and "more", as above, instead
of "count"; for a change {"program","map","dryRun","add":[PREFIX],"remove":[PREFIX],"count"}, and
for --release {"program","map","released":BOOLEAN}.`;

const changes = ["add", "remove", "load", "release"] as const;

/** @throws UsageError where an option was given that is of no use for a pod's own maps. */
export function refuseNodeOptions(args: Arguments): void {
  const [wrong] = [...changes, "dry-run", "dir"].filter((name) => args.flag(name));
  if (wrong !== undefined)
    throw new UsageError(
      `--${wrong} is for maps that all pods of the node share: remora maps --node PROGRAM MAP --${wrong}`,
    );
}

/** `remora maps --node ...`. */
export async function runNodeMaps(call: Call, limit: number): Promise<ExitStatus> {
  const { args, tools, bpffs } = call;
  const [program, map, extra] = args.positionals;
  if (extra !== undefined) throw new UsageError(`one argument too many: ${extra}`);
  const wanted = changes.filter((name) => args.flag(name));
  if (wanted.length === 0 && args.flag("dry-run")) throw new UsageError("--dry-run is for --add, --remove and --load");
  if (wanted.length > 0) {
    if (program === undefined || map === undefined)
      throw new UsageError(
        `--${wanted[0]} which map? Give a program and one of its maps: remora maps --node acl denied`,
      );
    for (const alone of ["load", "release"] as const)
      if (args.flag(alone) && wanted.length > 1)
        throw new UsageError(
          `--${alone} stands alone: give --${wanted.find((name) => name !== alone)} in another command`,
        );
    if (args.flag("release") && args.flag("dry-run"))
      throw new UsageError("--dry-run is for --add, --remove and --load");
  }
  // Before anything is touched, and before the kernel is asked: what the user wrote has to be right.
  const goal = readGoal(args);
  const kernel = await tools.kernel();
  requireBpffs(kernel, bpffs);
  const target = { program: program ?? "", map: map ?? "" };
  if (args.flag("release")) return await release(call, kernel, target);
  if (goal) return await change(call, kernel, target, goal);
  return show(call, kernel, { program, map, limit });
}

// ---- showing -----------------------------------------------------------------------------------------------------

/** One map as `--json` prints it. */
export interface ShownNodeMap extends Partial<MapContents>, Pick<NodeMap, "program" | "kept" | "attachments"> {
  name: string;
  /** How many entries it holds; null where that cannot be told. */
  count?: number | null;
}

function show(
  { args, io, json, bpffs }: Call,
  kernel: KernelPort,
  wanted: { program: string | undefined; map: string | undefined; limit: number },
): ExitStatus {
  const found = listNodeMaps(kernel, bpffs);
  const chosen = found.filter(
    ({ program, map }) =>
      (wanted.program === undefined || program === wanted.program) && (wanted.map === undefined || map === wanted.map),
  );
  if (wanted.program !== undefined && chosen.length === 0) throw unknown(wanted.program, wanted.map, found);
  const perCpu = args.flag("per-cpu");
  const maps = chosen.flatMap((each) => {
    using handles = new Handles(kernel);
    const pinned = handles.openPin(each.path);
    if (!pinned) return []; // gone meanwhile
    const info = kernel.mapInfo(pinned.fd);
    const { program, map: name, kept, attachments } = each;
    const about = { program, name, kept, attachments };
    if (wanted.program === undefined)
      return { ...about, type: info.type, id: info.id, maxEntries: info.maxEntries, count: count(kernel, info) };
    return { ...about, ...info, name, ...readEntries(kernel, info, { limit: wanted.limit, perCpu }) };
  });
  if (json) io.stdout(`${JSON.stringify({ maps })}\n`);
  else io.stdout(wanted.program === undefined ? renderList(maps, pageFor(io)) : renderMaps(maps, pageFor(io)));
  return 0;
}

function count(kernel: KernelPort, info: MapInfo): number | null {
  return readEntries(kernel, info, { limit: info.maxEntries, perCpu: false }).entries?.length ?? null;
}

function unknown(program: string, map: string | undefined, found: NodeMap[]): RemoraError {
  const names = found.map((each) => `${each.program} ${each.map}`);
  const what = map === undefined ? `no map of ${program}` : `no map ${program} ${map}`;
  return new RemoraError(
    code.unknownProgram,
    `${what} is shared on this node${didYouMean(`${program} ${map ?? ""}`.trim(), names) || ":"} there is ${listed(names)}; ` +
      "a pod that uses it makes it, or --add and --load do",
  );
}

/** The page that a person reads: all of them, a line each. */
export function renderList(maps: ShownNodeMap[], page: Page): string {
  if (maps.length === 0) return "No map is shared by pods of this node.\n";
  const rows = maps.map(({ program, name, type, count: entries, maxEntries, attachments, kept }) => ({
    cells: [
      program,
      name,
      type ?? "",
      `${entries ?? "?"} of ${maxEntries}`,
      users(attachments),
      kept ? "until --release" : "while it is used",
    ],
  }));
  const columns = [
    { title: "program" },
    { title: "map" },
    { title: "type" },
    { title: "entries", align: "right" as const },
    { title: "used by" },
    { title: "kept" },
  ];
  return `${table(page, columns, rows).join("\n")}\n`;
}

function users(attachments: number | null): string {
  if (attachments === null) return "unknown: an ADD is at work";
  return attachments === 1 ? "1 interface" : `${attachments} interfaces`;
}

function renderMaps(maps: (ShownNodeMap & MapContents)[] | ShownNodeMap[], page: Page): string {
  return maps
    .map((map) => {
      const whose = `${map.program}, shared by all pods; used by ${users(map.attachments)}${map.kept ? "; kept until --release" : ""}`;
      return `${renderContents(map as MapContents, whose, page).join("\n")}\n`;
    })
    .join("\n");
}

// ---- changing ----------------------------------------------------------------------------------------------------

/** What the list shall be, from what it is. */
type Goal = (current: Prefixes) => Prefixes;

/** @throws RemoraError badParameter, ioFailure; UsageError. */
function readGoal(args: Arguments): Goal | undefined {
  const file = args.text("load");
  if (file !== undefined) {
    const wanted = readPrefixes(file, readList(file));
    return () => wanted;
  }
  const add = prefixesOf("--add", args.texts("add"));
  const remove = prefixesOf("--remove", args.texts("remove"));
  if (add.size === 0 && remove.size === 0) return undefined;
  for (const [id, key] of add)
    if (remove.has(id)) throw new UsageError(`${prefixKey.decode(key)} is to be added and removed: say one of it`);
  return (current) => new Map([...current, ...add].filter(([id]) => !remove.has(id)));
}

function readList(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new RemoraError(code.ioFailure, `--load ${file}: ${(error as Error).message}; nothing was changed`, {
      cause: error,
    });
  }
}

async function change(
  call: Call,
  kernel: KernelPort,
  target: { program: string; map: string },
  goal: Goal,
): Promise<ExitStatus> {
  const { args, io, json, bpffs } = call;
  const dryRun = args.flag("dry-run");
  using handles = new Handles(kernel);
  let done: Difference;
  if (dryRun) {
    done = await plan(call, kernel, target, goal, handles);
  } else {
    const path = listNodeMaps(kernel, bpffs).find(
      (each) => each.program === target.program && each.map === target.map,
    )?.path;
    // A map that is there and holds something else must not be kept for the attempt.
    if (path !== undefined) requirePrefixes(kernel, target, handles.openPin(path)?.fd);
    const { fd, lock } = await claimNodeMap(kernel, bpffs, target, () => find(call, kernel, target), handles);
    using _ = lock;
    requirePrefixes(kernel, target, fd);
    done = difference(prefixesIn(kernel, fd), goal, kernel.mapInfo(fd).maxEntries);
    applyDifference(kernel, fd, done);
  }
  const add = done.add.map((key) => String(prefixKey.decode(key)));
  const remove = done.remove.map((key) => String(prefixKey.decode(key)));
  io.stdout(
    json
      ? `${JSON.stringify({ ...target, dryRun, add, remove, count: done.after })}\n`
      : renderChange(target, { add, remove, count: done.after, dryRun }),
  );
  return 0;
}

/** What a change would do; nothing is made or kept for it. */
async function plan(
  call: Call,
  kernel: KernelPort,
  target: { program: string; map: string },
  goal: Goal,
  handles: Handles,
): Promise<Difference> {
  const there = listNodeMaps(kernel, call.bpffs).find(
    ({ program, map }) => program === target.program && map === target.map,
  );
  const pinned = there && handles.openPin(there.path);
  if (pinned) {
    requirePrefixes(kernel, target, pinned.fd);
    return difference(prefixesIn(kernel, pinned.fd), goal, kernel.mapInfo(pinned.fd).maxEntries);
  }
  const program = await find(call, kernel, target);
  const maxEntries = program.info.maps.find(({ name }) => name === target.map)?.maxEntries ?? 0;
  return difference(new Map(), goal, maxEntries);
}

/** The program that a map is made from. @throws RemoraError unknownProgram, and what the catalog throws. */
async function find(
  { args, io }: Call,
  kernel: KernelPort,
  target: { program: string; map: string },
): Promise<CatalogProgram> {
  const dirs = givenDirs(args);
  const program = (await openCatalog(dirs.length > 0 ? dirs : standardDirs(io.executable), kernel)).get(target.program);
  const shared = nodeMapsOf(program);
  const own = program.info.maps.find(({ name }) => name === target.map);
  if (!shared.includes(target.map))
    throw new RemoraError(
      code.unknownProgram,
      `${target.program} has no map ${JSON.stringify(target.map)} that pods share${didYouMean(target.map, shared) || ":"} it has ${listed(shared)}`,
    );
  if (own?.type !== "lpm_trie" || own.keySize !== prefixKey.size) throw noPrefixes(target);
  return program;
}

function requirePrefixes(kernel: KernelPort, target: { program: string; map: string }, fd: Fd | undefined): void {
  if (fd === undefined) return;
  const types = kernel.mapTypes(fd);
  if (!types || !isPrefixKey(types.key)) throw noPrefixes(target);
}

function noPrefixes({ program, map }: { program: string; map: string }): RemoraError {
  return new RemoraError(
    code.unsupported,
    `the map ${map} of ${program} is no list of prefixes: --add, --remove and --load are for maps whose keys are struct remora_prefix_key`,
  );
}

/** How many prefixes of a difference a person is shown. */
const shownPrefixes = 20;

function renderChange(
  { program, map }: { program: string; map: string },
  { add, remove, count: after, dryRun }: { add: string[]; remove: string[]; count: number; dryRun: boolean },
): string {
  const lines = [...add.map((text) => `+ ${text}`), ...remove.map((text) => `- ${text}`)];
  const shown = dryRun || lines.length <= shownPrefixes ? lines.slice(0, shownPrefixes) : [];
  const left = dryRun ? lines.length - shown.length : 0;
  const would = dryRun ? " would be" : "";
  return [
    ...shown.map((line) => `  ${line}`),
    ...(left > 0 ? [`  and ${left} more`] : []),
    `${printable(`${program} ${map}`)}: ${add.length}${would} added, ${remove.length}${would} removed, ${after} ${after === 1 ? "prefix" : "prefixes"}${dryRun ? " then" : ""}.`,
    "",
  ].join("\n");
}

async function release(
  { io, json, bpffs }: Call,
  kernel: KernelPort,
  target: { program: string; map: string },
): Promise<ExitStatus> {
  const same = (each: NodeMap): boolean => each.program === target.program && each.map === target.map;
  const found = listNodeMaps(kernel, bpffs);
  if (!found.some(same)) throw unknown(target.program, target.map, found);
  const released = await letGoNodeMap(kernel, bpffs, target);
  const left = listNodeMaps(kernel, bpffs).find(same);
  const name = printable(`${target.program} ${target.map}`);
  const fate = left
    ? `it goes with the last pod that uses it; now used by ${users(left.attachments)}`
    : "gone, as no pod uses it";
  io.stdout(
    json ? `${JSON.stringify({ ...target, released })}\n` : `${name}${released ? "" : " was not kept"}: ${fate}.\n`,
  );
  return 0;
}
