// SPDX-License-Identifier: Apache-2.0
/**
 * Which functions of an object are its entries, one per direction.
 *
 * Objects in the wild say it in the section's name, libbpf's own way (`tc/ingress`, `tcx/egress`, `netkit/primary` has
 * no direction) or any other (`tc-ingress`, `tc_egress_flow_monitoring`, `classifier/egress`), or only in the
 * function's name. Where that leaves a doubt the manifest has to say it: nothing is guessed.
 */

import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, type ObjectInfo, type ObjectProgram } from "../kernel/port.ts";
import type { CatalogProgram } from "../model.ts";
import { listed } from "./words.ts";

type Entry = CatalogProgram["entry"];

/** The programs that may stand in a chain: TC classifiers that the object does not itself tail-call. */
function candidatesOf(info: ObjectInfo): ObjectProgram[] {
  return info.programs.filter((program) => program.type === "sched_cls" && !program.inner);
}

function directionIn(name: string): Direction | undefined {
  const [found, another] = directions.filter((direction) => name.toLowerCase().includes(direction));
  return another === undefined ? found : undefined;
}

function directionOf(program: ObjectProgram): Direction | undefined {
  return directionIn(program.section) ?? directionIn(program.name);
}

function inSection(program: ObjectProgram): string {
  return `${program.name} (section ${program.section})`;
}

/** Finds the entries of an object whose manifest names none. Throws RemoraError badObject. */
export function findEntry(path: string, info: ObjectInfo): Entry {
  const candidates = candidatesOf(info);
  const [only] = candidates;
  if (only === undefined) throw new RemoraError(code.badObject, `${path} ${whyNoEntry(info)}`);

  const undirected = candidates.filter((program) => directionOf(program) === undefined);
  if (candidates.length === 1 && undirected.length === 1) return { ingress: only.name, egress: only.name };

  const entry: Entry = {};
  let ambiguous = undirected.length > 0;
  for (const direction of directions) {
    const [first, second] = candidates.filter((program) => directionOf(program) === direction);
    if (first) entry[direction] = first.name;
    if (second) ambiguous = true;
  }
  if (!ambiguous) return entry;
  const manifest = path.replace(/\.bpf\.o$/, ".yaml");
  throw new RemoraError(
    code.badObject,
    `${path} holds several TC programs, and which of them is meant for which direction is not clear: ` +
      `${candidates.map(inSection).join(", ")}; write into ${manifest}: ` +
      `entry: {ingress: <function>, egress: <function>}, or one of the two`,
  );
}

function whyNoEntry(info: ObjectInfo): string {
  if (info.programs.length === 0) return "holds no program: a TC program is a function in a section such as tc";
  const others = info.programs.filter((program) => program.type !== "sched_cls");
  if (others.length === 0) return "holds only programs that it tail-calls itself, none that starts";
  const what = listed(others.map((program) => `${program.name} (${program.type}, section ${program.section})`));
  const xdp = others.some((program) => program.type === "xdp")
    ? "; XDP does not work inside a pod, build it as a TC program (section tc)"
    : "";
  return `holds no TC program, only ${what}${xdp}`;
}

/** Checks the functions that a manifest names. Throws RemoraError badManifest. */
export function checkEntry(manifestPath: string, info: ObjectInfo, wanted: Record<string, string | undefined>): Entry {
  const entry: Entry = {};
  for (const direction of directions) {
    const name = wanted[direction];
    if (name === undefined) continue;
    const program = info.programs.find((candidate) => candidate.name === name);
    const wrong =
      program === undefined
        ? "which the object does not hold"
        : program.type !== "sched_cls"
          ? `which is no TC program but ${program.type}`
          : undefined;
    if (wrong !== undefined) {
      throw new RemoraError(
        code.badManifest,
        `${manifestPath}: entry.${direction} names ${name}, ${wrong} ` +
          `(its TC programs: ${listed(candidatesOf(info).map((candidate) => candidate.name))})`,
      );
    }
    entry[direction] = name;
  }
  return entry;
}
