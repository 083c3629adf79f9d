// SPDX-License-Identifier: Apache-2.0
/** `remora programs`: the catalog, what a pod can ask for. */

import { dirname, resolve } from "node:path";
import { openCatalog } from "../catalog/catalog.ts";
import { verdicts } from "../catalog/manifest.ts";
import type { ParameterDescription } from "../catalog/parameters.ts";
import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, type KernelPort } from "../kernel/port.ts";
import type { CatalogProgram, FailurePolicy, Place } from "../model.ts";
import type { Command } from "./command.ts";
import { defaultProgramDir, libraryDir, standardDirs } from "./directories.ts";
import { describeParameters, parameterShape, parameterTable } from "./parameters.ts";
import { type Page, pageFor, paragraph, printable } from "./terminal.ts";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {
    dir: { type: "string", multiple: true, value: "DIR", help: "a program directory" },
  },
  help: `
Shows each program of the catalog: version, description, priority, directions and every parameter.
An annotation asks for a program by the name shown here, and sets its parameters:
  remora.io/programs: "PROGRAM, PROGRAM"
  PROGRAM.remora.io/PARAMETER: VALUE

Looked in are the directories given with --dir, else ${defaultProgramDir} and behind it the
library that came with this executable. A pod can ask for what the configuration's programDirs
hold. Of two programs of one name, the first counts. What cannot be used is listed with the reason.

--json prints {"directories":[DIR],"programs":[{"name","version","description","path","sha256",
"priority","directions":["ingress","egress"],"at":"pod"|"host","proceedOn":["ok"],
"failurePolicy":"closed"|"open"|null,"namespaces":[GLOB]|null,"nodeWide":true,
"mapScopes":{MAP:"pod"|"node"},"parameters":[P]}],"problems":[{"path","code","reason"}]} with
P = ${parameterShape}.`,
  async run({ args, io, tools, json }) {
    const given = args.texts("dir").map((path) => resolve(path));
    const library = libraryDir(io.executable);
    const asked = given.length > 0;
    const view = await viewCatalog(asked ? given : standardDirs(io.executable), await tools.kernel(), asked);
    io.stdout(json ? `${JSON.stringify(view)}\n` : renderCatalog(view, pageFor(io), asked ? undefined : library));
    return 0;
  },
};

/** What `--json` prints. */
export interface CatalogView {
  directories: string[];
  programs: ProgramView[];
  problems: { path: string; code: number; reason: string }[];
}
interface ProgramView {
  name: string;
  version: string;
  description: string;
  path: string;
  sha256: string;
  priority: number;
  directions: Direction[];
  at: Place;
  proceedOn: string[];
  failurePolicy: FailurePolicy | null;
  namespaces: string[] | null;
  nodeWide: boolean;
  mapScopes: Record<string, Place | "node">;
  parameters: ParameterDescription[];
}

/**
 * Reads the directories. What cannot be used becomes a problem of the view; so does a directory that is not there, where
 * somebody asked for it.
 */
export async function viewCatalog(directories: string[], kernel: KernelPort, asked = false): Promise<CatalogView> {
  const catalog = await openCatalog(directories, kernel);
  const { programs, problems } = catalog.list();
  if (asked)
    for (const { path, state } of catalog.directories)
      if (state === "missing")
        problems.push({ path, error: new RemoraError(code.ioFailure, `${path} does not exist`) });
  const view: CatalogView = {
    directories,
    programs: [],
    problems: problems.map(({ path, error }) => ({ path, code: error.code, reason: error.message })),
  };
  for (const program of programs) {
    try {
      view.programs.push(viewProgram(program));
    } catch (error) {
      if (!(error instanceof RemoraError)) throw error;
      view.problems.push({ path: program.path, code: error.code, reason: error.message });
    }
  }
  return view;
}

function viewProgram(program: CatalogProgram): ProgramView {
  const names = Object.entries(verdicts);
  return {
    name: program.name,
    version: program.version,
    description: program.description,
    path: program.path,
    sha256: program.sha256,
    priority: program.priority,
    directions: directions.filter((direction) => program.entry[direction] !== undefined),
    at: program.at,
    proceedOn: program.proceedOn.map((number) => names.find(([, each]) => each === number)?.[0] ?? String(number)),
    failurePolicy: program.failurePolicy ?? null,
    namespaces: program.namespaces ?? null,
    nodeWide: program.nodeWide,
    mapScopes: program.mapScopes,
    parameters: describeParameters(program.path, program.info, program.params),
  };
}

/** The page that a person reads. What lies in the library alone is marked: a pod cannot ask for it yet. */
export function renderCatalog({ directories, programs, problems }: CatalogView, page: Page, library?: string): string {
  const blocks = programs.map((program) =>
    renderProgram(program, page, library !== undefined && dirname(program.path) === library),
  );
  if (problems.length > 0) {
    blocks.push([
      page.paint("Not usable:", "strong"),
      // The reason of most problems begins with the path.
      ...problems.flatMap(({ path, reason }) =>
        paragraph(page, reason.includes(path) ? reason : `${path}: ${reason}`, 2, "bad"),
      ),
    ]);
  }
  if (programs.length === 0) blocks.unshift(paragraph(page, `No programs in ${directories.join(" or ")}.`, 0));
  return `${blocks.map((block) => block.join("\n")).join("\n\n")}\n`;
}

function renderProgram(program: ProgramView, page: Page, inLibrary: boolean): string[] {
  const restrictions = [
    ...(inLibrary ? [`for pods, copy it into a program directory such as ${defaultProgramDir}`] : []),
    ...(program.at === "host" ? ["its egress side stands at the host's end of the pair"] : []),
    ...(program.namespaces === null ? [] : [`only for the namespaces ${program.namespaces.join(", ")}`]),
    ...(program.nodeWide ? [] : ["not for the node's own chain: pods ask for it"]),
    ...(program.failurePolicy === null ? [] : [`failure policy ${program.failurePolicy}`]),
    ...Object.entries(program.mapScopes).flatMap(([map, scope]) =>
      scope === "node" ? [`map ${map} is shared by all pods of the node: remora maps --node`] : [],
    ),
  ];
  return [
    `${page.paint(printable(program.name), "strong")}  ${printable(program.version)}  ${program.directions.join(" and ")}  priority ${program.priority}`,
    ...(program.description === "" ? [] : paragraph(page, program.description, 2)),
    ...paragraph(page, program.path, 2, "faint"),
    ...restrictions.flatMap((text) => paragraph(page, text, 2)),
    ...(program.parameters.length === 0 ? ["  no parameters"] : parameterTable(page, program.parameters, 2)),
  ];
}
