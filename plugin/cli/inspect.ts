// SPDX-License-Identifier: Apache-2.0
/** `remora inspect FILE`: one object, whoever it belongs to; nothing is loaded, unless --load asks for it. */

import { existsSync } from "node:fs";
import { basename } from "node:path";
import { largestManifest, largestObject } from "../catalog/catalog.ts";
import { checkEntry, findEntry } from "../catalog/entry.ts";
import { readRegularFile } from "../catalog/file.ts";
import { type Manifest, readManifest } from "../catalog/manifest.ts";
import { type ParameterDescription, readParameters, setParameter } from "../catalog/parameters.ts";
import { BadTag, type MapTags, mapTags } from "../catalog/tags.ts";
import { BadValue } from "../catalog/value.ts";
import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, KernelError, type KernelPort, type ObjectInfo } from "../kernel/port.ts";
import type { ParameterText } from "../model.ts";
import { type Command, UsageError } from "./command.ts";
import { loadEntries, renderLoaded } from "./inspect-load.ts";
import { describeParameters, parameterShape, parameterTable } from "./parameters.ts";
import { table } from "./table.ts";
import { type Page, pageFor, paragraph, printable } from "./terminal.ts";

const objectSuffix = ".bpf.o";

export const command: Command = {
  operands: "FILE",
  maxOperands: 1,
  options: {
    load: { type: "boolean", help: "loads the entries and says what the verifier thinks of them" },
    param: { type: "string", multiple: true, value: "K=V", help: "with --load: parameter K" },
  },
  help: `
Shows what an ELF object holds: its programs with sections and types, which of them are the entries
of a chain, its parameters, maps, licence and digest, and whether it can stand in a chain. Where a
manifest NAME.yaml lies beside NAME.bpf.o, it is asked for the entries. Who may write the files does
not matter here, and nothing is loaded: what the verifier says is known when a pod asks for it, or
with --load: then each entry is loaded, attached to nothing, and gone again. Parameters decide
what the verifier sees; set are those of the manifest, and over them those given with --param.
Exit status 1 where one is refused.

--json prints {"path","manifest":PATH|null,"sha256","license","btf":BOOLEAN,
"chain":{"able":BOOLEAN,"reason":TEXT|null},
"entries":[{"direction":"ingress"|"egress","function","section"}],
"programs":[{"function","section","type","inner":BOOLEAN,"tailCalls","resizes":BOOLEAN}],
"parameters":[P],"maps":[{"name","type","keySize","valueSize","maxEntries","flags",
"pinned":BOOLEAN,"internal":BOOLEAN,"scope":"pod"|"node","when":PARAMETER|null}]} and with --load
"loaded":[{"function","directions","loads":BOOLEAN,"reason":TEXT|null,"log":TEXT|null,
"verified":N|null,"instructions":N|null,"milliseconds":N|null}], with
P = ${parameterShape}.`,
  async run({ args, io, tools, json }) {
    const [path] = args.positionals;
    if (path === undefined) throw new UsageError("which FILE?");
    if (args.flag("param") && !args.flag("load")) throw new UsageError("--param is for --load");
    const object = readObject(path);
    const kernel = await tools.kernel();
    const view = await inspect(path, object, kernel);
    if (!args.flag("load")) {
      io.stdout(json ? `${JSON.stringify(view)}\n` : renderObject(view, pageFor(io)));
      return 0;
    }
    const parameters = await parametersFor(path, read(path, object, kernel), args.texts("param"));
    const name = basename(path).replace(/\.bpf\.o$|\.o$/, "");
    const loaded = loadEntries(kernel, { object, name }, view.entries, parameters);
    io.stdout(
      json
        ? `${JSON.stringify({ ...view, loaded })}\n`
        : `${renderObject(view, pageFor(io))}\n${renderLoaded(loaded, pageFor(io))}`,
    );
    return view.chain.able && loaded.every(({ loads }) => loads) ? 0 : 1;
  },
};

/** What `--json` prints. */
export interface ObjectView {
  path: string;
  manifest: string | null;
  sha256: string;
  license: string;
  btf: boolean;
  chain: { able: boolean; reason: string | null };
  entries: { direction: Direction; function: string; section: string }[];
  programs: {
    function: string;
    section: string;
    type: string;
    inner: boolean;
    tailCalls: number;
    resizes: boolean;
  }[];
  parameters: ParameterDescription[];
  maps: {
    name: string;
    type: string;
    keySize: number;
    valueSize: number;
    maxEntries: number;
    flags: number;
    pinned: boolean;
    internal: boolean;
    scope: "pod" | "node";
    /** The parameter without which it is not made. */
    when: string | null;
  }[];
}

/** @throws RemoraError (badObject) where the file is no object that could be read: not ELF, truncated, legacy maps. */
export async function inspect(path: string, object: Buffer, kernel: KernelPort): Promise<ObjectView> {
  const info = read(path, object, kernel);
  const manifest = manifestBeside(path);
  const view: ObjectView = {
    path,
    manifest: manifest ?? null,
    sha256: info.sha256,
    license: info.license,
    btf: info.btf,
    chain: { able: true, reason: null },
    entries: [],
    programs: info.programs.map(({ name, section, type, inner, tailCalls, resizes }) => ({
      function: name,
      section,
      type,
      inner,
      tailCalls,
      resizes,
    })),
    parameters: [],
    maps: info.maps.map(({ name, type, keySize, valueSize, maxEntries, flags, pinned, internal, tags }) => ({
      name,
      type,
      keySize,
      valueSize,
      maxEntries,
      flags,
      pinned,
      internal,
      scope: "pod",
      when: null,
      ...tagsIn(tags),
    })),
  };
  try {
    view.entries = await entriesOf(path, manifest, info);
    view.parameters = describeParameters(path, info);
    const scopes = (await manifestOf(path))?.maps ?? {};
    for (const map of view.maps) if (Object.hasOwn(scopes, map.name)) map.scope = scopes[map.name] ?? map.scope;
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    view.chain = { able: false, reason: error.message };
  }
  return view;
}

/** The manifest's, and over them those of the command line. @throws RemoraError badParameter; UsageError. */
async function parametersFor(
  path: string,
  info: ObjectInfo,
  given: string[],
): Promise<{ name: string; bytes: Buffer }[]> {
  const manifest = await manifestOf(path);
  const values = new Map<string, ParameterText>(Object.entries(manifest?.params ?? {}));
  for (const setting of given) {
    const [, name, value] = /^([^=]+)=(.*)$/s.exec(setting) ?? [];
    if (name === undefined || value === undefined)
      throw new UsageError(`--param ${setting}: write PARAMETER=VALUE, such as deny_list=true`);
    values.set(name, value);
  }
  const parameters = readParameters(path, info);
  return [...values].flatMap(([name, value]) => {
    try {
      return setParameter(parameters, name, value).bytes;
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      throw new RemoraError(code.badParameter, `${path}: parameter ${name}: ${error.message}`);
    }
  });
}

/** Tags that cannot be understood make the object one that cannot stand in a chain; the catalog says so. */
function tagsIn(tags: readonly string[]): MapTags {
  try {
    return mapTags(tags);
  } catch (error) {
    if (error instanceof BadTag) return {};
    throw error;
  }
}

/** @throws RemoraError ioFailure, also for what the catalog would not take: no regular file, or too large. */
export function readObject(path: string): Buffer {
  return readNamed(path, largestObject, "name an object file");
}

function readNamed(path: string, maxBytes: number, remedy: string): Buffer {
  const failure = (why: string, cause?: unknown): RemoraError =>
    new RemoraError(code.ioFailure, `${path} cannot be read: ${why}; ${remedy}`, { cause });
  try {
    return readRegularFile(path, { maxBytes, refuse: (wrong) => failure(wrong) });
  } catch (error) {
    if (error instanceof RemoraError) throw error;
    throw failure((error as Error).message.replace(/^(E[A-Z0-9]+: .*?),.*$/s, "$1"), error);
  }
}

function read(path: string, object: Buffer, kernel: KernelPort): ObjectInfo {
  try {
    return kernel.inspectObject(object);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    throw new RemoraError(code.badObject, `${path}: ${error.message}`, { details: error.log ?? "", cause: error });
  }
}

function manifestBeside(path: string): string | undefined {
  if (!path.endsWith(objectSuffix)) return undefined;
  const manifest = `${path.slice(0, -objectSuffix.length)}.yaml`;
  return existsSync(manifest) ? manifest : undefined;
}

async function manifestOf(path: string): Promise<Manifest | undefined> {
  const manifest = manifestBeside(path);
  if (manifest === undefined) return undefined;
  const text = readNamed(manifest, largestManifest, "put the manifest in its place").toString("utf8");
  return readManifest(manifest, text, (await import("yaml")).parse);
}

async function entriesOf(path: string, manifest: string | undefined, info: ObjectInfo): Promise<ObjectView["entries"]> {
  const wanted = (await manifestOf(path))?.entry;
  const entry = manifest !== undefined && wanted ? checkEntry(manifest, info, wanted) : findEntry(path, info);
  return directions.flatMap((direction) => {
    const program = info.programs.find(({ name }) => name === entry[direction]);
    return program === undefined ? [] : [{ direction, function: program.name, section: program.section }];
  });
}

/** The page that a person reads. */
export function renderObject(view: ObjectView, page: Page): string {
  const { able, reason } = view.chain;
  const facts = [
    ["sha256", view.sha256],
    ["licence", view.license === "" ? "none" : view.license],
    ["BTF", view.btf ? "yes" : "none: its parameters have no types, so none are known"],
    ...(view.manifest === null ? [] : [["manifest", view.manifest]]),
  ];
  return [
    page.paint(printable(view.path), "strong"),
    ...facts.flatMap(([name, value]) => paragraph(page, `${name?.padEnd(8)}  ${value}`, 2)),
    ...paragraph(page, able ? "can stand in a chain" : `cannot stand in a chain: ${reason}`, 2, able ? "good" : "bad"),
    "",
    ...programTable(view, page),
    "",
    ...(view.parameters.length === 0 ? ["  no parameters"] : parameterTable(page, view.parameters, 2)),
    "",
    ...mapTable(view, page),
    "",
  ].join("\n");
}

function programTable({ programs, entries }: ObjectView, page: Page): string[] {
  if (programs.length === 0) return ["  no programs"];
  return table(
    page,
    [
      { title: "program", fit: "wrap" },
      { title: "section", fit: "wrap" },
      { title: "type" },
      { title: "entry" },
      { title: "tail calls", align: "right" },
      { title: "remarks", optional: true, fit: "wrap" },
    ],
    programs.map((program) => ({
      cells: [
        program.function,
        program.section,
        program.type,
        entries
          .filter((entry) => entry.function === program.function)
          .map(({ direction }) => direction)
          .join(", ") || "-",
        program.tailCalls,
        [
          ...(program.inner ? ["tail-called by the object"] : []),
          ...(program.resizes ? ["can resize packets"] : []),
        ].join(", "),
      ],
    })),
    2,
  );
}

function mapTable({ maps }: ObjectView, page: Page): string[] {
  const own = maps.filter(({ internal }) => !internal);
  if (own.length === 0) return ["  no maps"];
  return table(
    page,
    [
      { title: "map", fit: "wrap" },
      { title: "type" },
      { title: "key", align: "right" },
      { title: "value", align: "right" },
      { title: "entries", align: "right" },
      { title: "remarks", optional: true, fit: "wrap" },
    ],
    own.map((map) => ({
      cells: [
        map.name,
        map.type,
        `${map.keySize} B`,
        `${map.valueSize} B`,
        map.maxEntries,
        [
          ...(map.pinned ? [map.scope === "node" ? "pinned by name" : "pinned by name, per pod"] : []),
          ...(map.scope === "node" ? ["shared by all pods of the node"] : []),
          ...(map.when === null ? [] : [`only where ${map.when} is set`]),
        ].join(", "),
      ],
    })),
    2,
  );
}
