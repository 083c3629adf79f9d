// SPDX-License-Identifier: Apache-2.0
/**
 * The catalog: the programs that this node offers, `<name>.bpf.o` and optionally `<name>.yaml` in the program
 * directories, of which the first that has a name wins. An object is read when it is asked for, once.
 */

import { join } from "node:path";
import { code, RemoraError } from "../errors.ts";
import { KernelError, type KernelPort, type ObjectInfo, type ObjectMap } from "../kernel/port.ts";
import type { CatalogProgram, ParameterText } from "../model.ts";
import { checkEntry, findEntry } from "./entry.ts";
import { type Manifest, type ParseYaml, readManifest, verdicts } from "./manifest.ts";
import { readParameters, setParameter } from "./parameters.ts";
import { BadTag, type MapTags, mapTags } from "./tags.ts";
import { openTrustedDirectory, readTrustedFile, type TrustedDirectory } from "./trust.ts";
import { BadValue } from "./value.ts";
import { didYouMean, listed, quote } from "./words.ts";

const objectEnd = ".bpf.o";
const manifestEnd = ".yaml";
/** Bytes. */
export const largestObject = 16 * 1024 * 1024;
export const largestManifest = 64 * 1024;

export const defaultPriority = 500;
/** UNSPEC, OK and PIPE: what a program returns that has no objection. */
const defaultProceedOn = [verdicts.unspec, verdicts.ok, verdicts.pipe];

/**
 * A program's name begins its annotations, `<name>.remora.io/<parameter>`, so it is lower case. An underscore, which
 * Kubernetes refuses in that place but files in the wild have, is let in: such a program gets its parameters through
 * the JSON form of `remora.io/programs`.
 */
export function isProgramName(name: string): boolean {
  return name.length <= 63 && /^[a-z0-9]+([._-]+[a-z0-9]+)*$/.test(name) && !name.includes("..");
}

/** What `isProgramName` lets through, in words. */
export const nameRule = 'lower-case letters and digits, with single ".", "-" or "_" between, 63 at most';

export interface Catalog {
  /** The directories as configured, and whether they can be used. */
  readonly directories: { path: string; state: "ok" | "missing" | RemoraError }[];
  /** Throws RemoraError unknownProgram, untrustedFile, badObject, badManifest, ioFailure. */
  get(name: string): CatalogProgram;
  /** Everything that can be used, by name, and everything that cannot. */
  list(): { programs: CatalogProgram[]; problems: { path: string; error: RemoraError }[] };
}

/** Looks into the program directories; nothing is thrown for what is wrong in them before it is asked for. */
export async function openCatalog(
  programDirs: readonly string[],
  kernel: Pick<KernelPort, "inspectObject">,
): Promise<Catalog> {
  const opened = programDirs.map((path) => {
    try {
      return { path, directory: openTrustedDirectory(path) };
    } catch (error) {
      if (error instanceof RemoraError) return { path, error };
      throw error;
    }
  });
  const hasManifests = opened.some(({ directory }) => directory?.names.some((name) => name.endsWith(manifestEnd)));
  const parseYaml: ParseYaml | undefined = hasManifests ? (await import("yaml")).parse : undefined;

  const loaded = new Map<string, CatalogProgram>();
  const get = (name: string): CatalogProgram => {
    const known = loaded.get(name);
    if (known) return known;
    if (!isProgramName(name)) {
      throw new RemoraError(code.unknownProgram, `${quote(name)} is not a program's name: ${nameRule}`);
    }
    for (const { directory, error } of opened) {
      // What a directory that is not to be trusted would have offered is not known, so nothing behind it counts.
      if (error) throw error;
      if (!directory?.names.includes(name + objectEnd)) continue;
      const program = loadProgram(directory, name, kernel, parseYaml);
      loaded.set(name, program);
      return program;
    }
    throw unknownProgram(name, opened);
  };

  return {
    directories: opened.map(({ path, directory, error }) => ({ path, state: error ?? (directory ? "ok" : "missing") })),
    get,
    list() {
      const names = new Set<string>();
      const programs: CatalogProgram[] = [];
      const problems: { path: string; error: RemoraError }[] = [];
      for (const { path: directoryPath, directory, error } of opened) {
        if (error) problems.push({ path: directoryPath, error });
        for (const file of directory?.names ?? []) {
          const path = join(directoryPath, file);
          try {
            const name = programOf(path, file, directory?.names ?? []);
            if (name === undefined || names.has(name)) continue;
            names.add(name);
            if (directory) programs.push(loaded.get(name) ?? loadProgram(directory, name, kernel, parseYaml));
          } catch (problem) {
            if (!(problem instanceof RemoraError)) throw problem;
            problems.push({ path, error: problem });
          }
        }
      }
      programs.sort((a, b) => (a.name < b.name ? -1 : 1));
      return { programs, problems };
    },
  };
}

/** The program that a file of a directory stands for, undefined for files that are no business of ours. */
function programOf(path: string, file: string, names: readonly string[]): string | undefined {
  if (file.endsWith(objectEnd)) {
    const name = file.slice(0, -objectEnd.length);
    if (isProgramName(name)) return name;
    throw new RemoraError(
      code.badObject,
      `${path} cannot be selected: ${quote(name)} is not a program's name: ${nameRule}`,
    );
  }
  const [, name] = /^(.+)\.ya?ml$/.exec(file) ?? [];
  if (name === undefined || names.includes(name + objectEnd)) return undefined;
  throw new RemoraError(code.badManifest, `${path} has no object ${name}${objectEnd} beside it`);
}

type Opened = { path: string; directory?: TrustedDirectory | undefined; error?: RemoraError };

function unknownProgram(name: string, opened: readonly Opened[]): RemoraError {
  const names = opened.flatMap(({ directory }) => directory?.names ?? []).filter((file) => file.endsWith(objectEnd));
  const programs = [...new Set(names.map((file) => file.slice(0, -objectEnd.length)))].filter(isProgramName).sort();
  const looked = opened.map(({ path, directory }) => (directory ? path : `${path}, which does not exist`)).join("; ");
  const where = opened.length === 0 ? "no program directory is configured" : `looked in ${looked}`;
  return new RemoraError(
    code.unknownProgram,
    `this node has no program ${quote(name)}${didYouMean(name, programs) || ":"} it has ${listed(programs)} (${where})`,
  );
}

function loadProgram(
  directory: TrustedDirectory,
  name: string,
  kernel: Pick<KernelPort, "inspectObject">,
  parseYaml: ParseYaml | undefined,
): CatalogProgram {
  const path = join(directory.path, name + objectEnd);
  const manifestPath = join(directory.path, name + manifestEnd);
  const object = readTrustedFile(directory, name + objectEnd, largestObject);
  const info = inspect(path, object, kernel);
  const manifest = findManifest(directory, name, manifestPath, parseYaml);

  if (manifest.sha256 !== undefined && manifest.sha256 !== info.sha256) {
    throw new RemoraError(
      code.untrustedFile,
      `${path} has sha256 ${info.sha256}, but its manifest ${manifestPath} asks for ${manifest.sha256}`,
    );
  }
  checkParameters(path, manifestPath, info, manifest.params);
  return {
    name,
    version: manifest.version ?? info.sha256.slice(0, 12),
    description: manifest.description ?? "",
    path,
    object,
    info,
    sha256: info.sha256,
    entry: manifest.entry ? checkEntry(manifestPath, info, manifest.entry) : findEntry(path, info),
    priority: manifest.priority ?? defaultPriority,
    proceedOn: manifest.proceedOn ?? [...defaultProceedOn],
    mapScopes: scopesOf(path, manifestPath, info, manifest.maps),
    mapConditions: conditionsOf(path, info),
    endingMaps: endingMapsOf(path, info),
    params: manifest.params,
    failurePolicy: manifest.failurePolicy,
    namespaces: manifest.namespaces,
    at: manifest.at ?? "pod",
    nodeWide: manifest.nodeWide ?? true,
  };
}

function inspect(path: string, object: Buffer, kernel: Pick<KernelPort, "inspectObject">): ObjectInfo {
  try {
    return kernel.inspectObject(object);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    const options = { cause: error, details: error.log ?? "" };
    throw new RemoraError(code.badObject, `${path} is no object that can be loaded: ${error.message}`, options);
  }
}

const noManifest: Manifest = { maps: {}, params: {} };

function findManifest(
  directory: TrustedDirectory,
  name: string,
  path: string,
  parseYaml: ParseYaml | undefined,
): Manifest {
  // Overlooked, it would silently restrict nothing.
  if (directory.names.includes(`${name}.yml`)) {
    const wrong = join(directory.path, `${name}.yml`);
    throw new RemoraError(code.badManifest, `${wrong} is not read under this name: call it ${name}${manifestEnd}`);
  }
  if (parseYaml === undefined || !directory.names.includes(name + manifestEnd)) return noManifest;
  const text = readTrustedFile(directory, name + manifestEnd, largestManifest).toString("utf8");
  return readManifest(path, text, parseYaml);
}

function checkParameters(
  path: string,
  manifestPath: string,
  info: ObjectInfo,
  params: Record<string, ParameterText>,
): void {
  const parameters = readParameters(path, info);
  for (const [name, value] of Object.entries(params)) {
    try {
      setParameter(parameters, name, value);
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      throw new RemoraError(code.badManifest, `${manifestPath}: params.${name}: ${error.message}`);
    }
  }
}

/** The manifest's word counts more than the tags of the object. */
function scopesOf(
  path: string,
  manifestPath: string,
  info: ObjectInfo,
  wanted: Manifest["maps"],
): CatalogProgram["mapScopes"] {
  const maps = info.maps.filter((map) => !map.internal);
  const scopes = new Map<string, "pod" | "node">();
  for (const map of maps) {
    const { scope } = tagsOf(path, map);
    if (scope) scopes.set(map.name, scope);
  }
  const names = maps.map((map) => map.name);
  for (const [name, scope] of Object.entries(wanted)) {
    if (!names.includes(name)) {
      const hint = didYouMean(name, names) || ":";
      const message = `${manifestPath}: maps names ${quote(name)}, which the object does not have${hint} it has ${listed(names)}`;
      throw new RemoraError(code.badManifest, message);
    }
    scopes.set(name, scope);
  }
  return Object.fromEntries(scopes);
}

function conditionsOf(path: string, info: ObjectInfo): CatalogProgram["mapConditions"] {
  const conditions = info.maps.flatMap((map) => {
    const { when } = map.internal ? {} : tagsOf(path, map);
    if (when === undefined) return [];
    const names = info.parameters.map(({ name }) => name);
    if (names.includes(when)) return [[map.name, when] as const];
    const hint = didYouMean(when, names) || ":";
    throw new RemoraError(
      code.badObject,
      `${path}: map ${map.name}: its tag "remora:when=${when}" names no parameter${hint} it has ${listed(names)}`,
    );
  });
  return Object.fromEntries(conditions);
}

/** The size of `struct remora_ending` (bpf/include/remora/ending.h). */
const endingSize = 24;

function endingMapsOf(path: string, info: ObjectInfo): string[] {
  const maps = info.maps.filter((map) => !map.internal && tagsOf(path, map).told === "ending");
  for (const { name, type, keySize, valueSize } of maps)
    if (type !== "percpu_array" || keySize !== 4 || valueSize !== endingSize)
      throw new RemoraError(
        code.badObject,
        `${path}: map ${name}: its tag "remora:told=ending" asks for a per-CPU array of struct remora_ending ` +
          `(${endingSize} bytes); it is a ${type} with values of ${valueSize} bytes`,
      );
  return maps.map(({ name }) => name);
}

function tagsOf(path: string, map: ObjectMap): MapTags {
  try {
    return mapTags(map.tags);
  } catch (error) {
    if (!(error instanceof BadTag)) throw error;
    throw new RemoraError(code.badObject, `${path}: map ${map.name}: ${error.message}`);
  }
}
