// SPDX-License-Identifier: Apache-2.0
/** Programs as `apply` and `attach` are given them: the options, and what they select. */

import { resolve } from "node:path";
import { openCatalog } from "../catalog/catalog.ts";
import { RemoraError } from "../errors.ts";
import type { KernelPort } from "../kernel/port.ts";
import type { Assigned, FailurePolicy, NodeConfig, PodIdentity, Selected } from "../model.ts";
import { programsKey } from "../select/annotations.ts";
import { select } from "../select/select.ts";
import { type Arguments, type Options, UsageError } from "./command.ts";

export const programOptions: Options = {
  programs: { type: "string", value: "LIST", help: "names between commas, or JSON, as in the annotation" },
  param: { type: "string", multiple: true, value: "P.K=V", help: "parameter K of program P" },
  dir: { type: "string", multiple: true, value: "DIR", help: "a program directory" },
};

/** The help's words on what the options take. */
export const programHelp = `LIST is what the annotation remora.io/programs takes: "count, acl", or JSON with priority, params
and directions; here also with "at": "host", for an egress side at the host's end of the pair, or
"pod". --param acl.default_action=deny sets what acl.remora.io/default_action would.`;

/** What was asked for, as annotations say it. */
export function readWishes(args: Arguments): Record<string, string> {
  const list = args.text("programs");
  if (list === undefined) throw new UsageError('which programs? Say --programs LIST; --programs "," is an empty list');
  const wishes: Record<string, string> = { [programsKey]: list };
  for (const setting of args.texts("param")) {
    // A program's name may hold dots, a parameter's none.
    const [, program, name, value] = /^([^=]+)\.([^.=]+)=(.*)$/s.exec(setting) ?? [];
    if (program === undefined || name === undefined || value === undefined)
      throw new UsageError(`--param ${setting}: write PROGRAM.PARAMETER=VALUE, such as acl.default_action=deny`);
    const key = `${program}.remora.io/${name}`;
    if (Object.hasOwn(wishes, key)) throw new UsageError(`--param ${program}.${name} is given twice`);
    wishes[key] = value;
  }
  return wishes;
}

/** The directories that were given, absolute; none where none was. */
export function givenDirs(args: Arguments): string[] {
  return args.texts("dir").map((path) => resolve(path));
}

/**
 * Checks the wishes against the catalog. Who has this command line is the node's administrator: every program is allowed but
 * to namespaces that its own manifest leaves out, and nothing may be missing.
 *
 * @param chain the node's entries that stay.
 * @param assigned what the interface was given.
 * @throws RemoraError as an ADD does, in the words of the command line.
 */
export async function choose(
  kernel: KernelPort,
  programDirs: string[],
  annotations: Record<string, string>,
  { chain = [], pod = null, assigned }: { chain?: NodeConfig["chain"]; pod?: PodIdentity | null; assigned: Assigned },
): Promise<Selected[]> {
  const catalog = await openCatalog(programDirs, kernel);
  const failurePolicy: FailurePolicy = "closed";
  // A manifest that lets its program be left out speaks of a pod's start; a person who asks wants to know.
  const strict = { get: (name: string) => ({ ...catalog.get(name), failurePolicy }) };
  const config = { chain, allow: { "*": ["*"] }, failurePolicy };
  try {
    const input = { config, annotations, pod, assigned: () => assigned, trusted: true };
    select({ ...input, catalog: strict });
    return select({ ...input, catalog }).selected;
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    const message = error.message
      .replaceAll(`annotation ${programsKey}`, "--programs")
      .replaceAll(`by ${programsKey}`, "by --programs")
      .replace(/annotation (\S+)\.remora\.io\/([^\s:]+)/g, "--param $1.$2");
    throw new RemoraError(error.code, message, { details: error.details, cause: error });
  }
}
