// SPDX-License-Identifier: Apache-2.0
/** `remora maps`: what the maps of a pod's program hold, decoded by their BTF. Those of the node are in node-maps.ts. */

import { chainPlaces, directionAt } from "../chain/places.ts";
import type { RecordedStage } from "../chain/record.ts";
import { Handles } from "../chain/undo.ts";
import { code, RemoraError } from "../errors.ts";
import type { Direction, KernelPort, MapInfo } from "../kernel/port.ts";
import type { Place } from "../model.ts";
import { type Arguments, type Command, UsageError } from "./command.ts";
import { type MapContents, readEntries, renderContents } from "./map-contents.ts";
import { nodeHelp, nodeOptions, refuseNodeOptions, runNodeMaps } from "./node-maps.ts";
import { type Recorded, recordsOf } from "./records.ts";
import { ownerOf } from "./selector.ts";
import { type Page, pageFor } from "./terminal.ts";

/** One map as `--json` prints it. */
export interface ShownMap extends MapContents {
  program: string;
  ifname: string;
  /** Where the program stands; both directions where they share the map. */
  at: { direction: Direction; at: Place; position: number }[];
}

const defaultLimit = 1000;

export const command: Command = {
  operands: "POD PROGRAM [MAP]  or  --node [PROGRAM [MAP]]",
  maxOperands: 3,
  options: {
    "per-cpu": { type: "boolean", help: "the values of each CPU apart, instead of their sum" },
    limit: { type: "string", value: "N", help: `entries read of each map (default ${defaultLimit})` },
    ...nodeOptions,
  },
  help: `
Shows what the maps of one of a pod's programs hold, with the names that the program's BTF gives to
keys and values. The pod is a name, namespace/name, a container id, or the beginning of one. MAP
shows that map only; without it the program's constants (.rodata: its parameters) are left out.
Entries of arrays that hold nothing but zeros are left out of the text.

A value of a per-CPU map is the sum over all CPUs: numbers are added up, a name or text is given
where all CPUs agree, else it is null. A number that JSON cannot hold exactly is a string;
bytes of unknown type are hexadecimal.

--json prints {"maps":[{"program","ifname","at":[{"direction","at","position"}],"name","type","id",
"keySize","valueSize","maxEntries","entries":[{"key","value"}],"more":false}]}, with "values" (one
per CPU) instead of "value" for --per-cpu, and "unreadable" instead of "entries" where a map cannot
be read.

${nodeHelp}`,
  async run(call) {
    const { args, io, tools, json, bpffs } = call;
    if (args.flag("node")) return await runNodeMaps(call, limitOf(args));
    refuseNodeOptions(args);
    const [pod, program, map] = args.positionals;
    if (pod === undefined || program === undefined)
      throw new UsageError("whose maps? Give a pod and one of its programs: remora maps POD PROGRAM");
    const limit = limitOf(args);
    const kernel = await tools.kernel();
    const recorded = recordsOf(kernel, bpffs, pod);
    const maps = readMaps(kernel, recorded, { program, map, limit, perCpu: args.flag("per-cpu") });
    io.stdout(json ? `${JSON.stringify({ maps })}\n` : renderMaps(maps, ownerOf(first(recorded).status), pageFor(io)));
    return 0;
  },
};

function limitOf(args: Arguments): number {
  const limit = Number(args.text("limit") ?? defaultLimit);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1_000_000)
    throw new UsageError(`--limit ${args.text("limit")}: give a whole number from 1 to 1000000`);
  return limit;
}

function first<T>(list: T[]): T {
  const [one] = list;
  if (one === undefined) throw new RemoraError(code.unknownContainer, "the pod went away meanwhile");
  return one;
}

// ---- reading -----------------------------------------------------------------------------------------------------

interface Wanted {
  program: string;
  map: string | undefined;
  limit: number;
  perCpu: boolean;
}

/** @throws RemoraError unknownProgram where the pod has no such program, or that one no such map. */
export function readMaps(kernel: KernelPort, recorded: Recorded[], wanted: Wanted): ShownMap[] {
  const shown = new Map<number, ShownMap>();
  const names = new Set<string>();
  let found = false;
  for (const { record } of recorded)
    for (const place of chainPlaces) {
      const chain = record.chains[place];
      const stands = { direction: directionAt(place), at: place === "host" ? "host" : "pod" } as const;
      chain?.stages.forEach((stage, position) => {
        if (!stage.entries.some(({ program }) => program === wanted.program)) return;
        found = true;
        // A stage also writes into maps of programs before it, which want to know how packets end.
        const before = chain.stages.slice(0, position).flatMap(({ maps }) => maps.map(({ id }) => id));
        const others = before.filter((id) => !stage.maps.some((map) => map.id === id));
        for (const [id, info] of mapsOf(kernel, stage, [chain.chainId, chain.countersId, ...others])) {
          const name = stage.maps.find((map) => map.id === id)?.name ?? info.name;
          names.add(name);
          const known = shown.get(id);
          if (known) known.at.push({ ...stands, position });
          else if (wanted.map === undefined ? !name.includes(".rodata") : name === wanted.map)
            shown.set(id, {
              program: wanted.program,
              ifname: record.id.ifname,
              at: [{ ...stands, position }],
              ...info,
              name,
              ...readEntries(kernel, info, wanted),
            });
        }
      });
    }
  if (!found) throw noProgram(recorded, wanted.program);
  if (wanted.map !== undefined && shown.size === 0)
    throw new RemoraError(
      code.unknownProgram,
      `${wanted.program} has no map ${JSON.stringify(wanted.map)}; its maps are: ${[...names].sort().join(", ") || "none"}`,
    );
  return [...shown.values()];
}

function noProgram(recorded: Recorded[], program: string): RemoraError {
  const there = new Set(
    recorded.flatMap(({ status }) => [...status.ingress, ...status.egress].map((entry) => entry.program)),
  );
  return new RemoraError(
    code.unknownProgram,
    `${ownerOf(first(recorded).status)} has no program ${JSON.stringify(program)}; its programs are: ` +
      ([...there].join(", ") || "none"),
  );
}

/**
 * The maps that a stage's program uses, and those of the programs that stand in its own PROG_ARRAYs: all but Remora's.
 */
function mapsOf(kernel: KernelPort, stage: RecordedStage, remoras: number[]): Map<number, MapInfo> {
  using handles = new Handles(kernel);
  const maps = new Map<number, MapInfo>();
  const visited = new Set<number>();
  const visit = (programId: number): void => {
    if (visited.has(programId)) return;
    visited.add(programId);
    const program = handles.own(kernel.openProgramById(programId));
    for (const id of kernel.programInfo(program).mapIds) {
      if (maps.has(id) || remoras.includes(id)) continue;
      const fd = handles.own(kernel.openMapById(id));
      const info = kernel.mapInfo(fd);
      if (info.name === "remora_events" || info.name === "remora_trace") continue; // `remora trace` is at work
      maps.set(id, info);
      if (info.type !== "prog_array") continue;
      for (const { value } of kernel.mapEntries(fd, info.maxEntries).entries) visit(value.readUInt32LE());
    }
  };
  visit(stage.programId);
  return maps;
}

// ---- the page ----------------------------------------------------------------------------------------------------

/** The page that a person reads. */
export function renderMaps(maps: ShownMap[], owner: string, page: Page): string {
  if (maps.length === 0) return "The program has no maps of its own.\n";
  return maps.map((map) => `${renderMap(map, owner, page).join("\n")}\n`).join("\n");
}

function renderMap(map: ShownMap, owner: string, page: Page): string[] {
  const places = map.at
    .map(({ direction, at, position }) => `${direction}${at === "host" ? " (host)" : ""} ${position}`)
    .join(", ");
  return renderContents(map, `${owner}  ${map.ifname}  ${map.program}, ${places}`, page);
}
