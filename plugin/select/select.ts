// SPDX-License-Identifier: Apache-2.0
/**
 * What runs on a pod: the node's chain and the pod's own wishes, checked against catalog and policy, in order.
 *
 * Parameters: the object's default, over it the manifest's, the entry's, the annotation's. Order: by priority, lower
 * first; among equals the node's before the pod's, then as listed. So a pod can put programs before, between and
 * behind those of the node, and neither remove nor exchange any of them.
 */

import type { Catalog } from "../catalog/catalog.ts";
import { type Parameters, readParameters, setParameter } from "../catalog/parameters.ts";
import { BadValue } from "../catalog/value.ts";
import { quote } from "../catalog/words.ts";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import { type Direction, directions } from "../kernel/port.ts";
import type { CatalogProgram, Missing, NodeConfig, ParameterText, PodIdentity, Selected, Wish } from "../model.ts";
import { readAnnotations, withValue } from "./annotations.ts";
import { deniedByManifest, deniedByNode } from "./policy.ts";

export interface SelectInput {
  config: Pick<NodeConfig, "chain" | "allow" | "failurePolicy">;
  annotations: Readonly<Record<string, string>> | undefined;
  pod: PodIdentity | null;
  catalog: Pick<Catalog, "get">;
}

/**
 * Selects and orders. A wish that cannot be had, whatever the reason (unknown, not allowed, a bad annotation or
 * parameter), throws RemoraError under the failure policy `closed`; under `open` it is left out and listed as missing.
 * A program's manifest may say the policy for it; what is refused before the program is found follows the node's.
 */
export function select({ config, annotations, pod, catalog }: SelectInput): {
  selected: Selected[];
  missing: Missing[];
} {
  const namespace = pod?.namespace ?? "";
  const selected: Selected[] = [];
  const missing: Missing[] = [];
  for (const asked of [...nodeWideWishes(config.chain), ...readAnnotations(annotations)]) {
    let policy = config.failurePolicy;
    try {
      if ("error" in asked) throw asked.error;
      if (!asked.nodeWide) requireAllowed(asked, deniedByNode(config.allow, namespace, asked.program));
      const program = findProgram(catalog, asked);
      policy = program.failurePolicy ?? policy;
      if (!asked.nodeWide) requireAllowed(asked, deniedByManifest(program, namespace));
      selected.push(check(asked, program));
    } catch (error) {
      if (!(error instanceof RemoraError)) throw error;
      const named = "nodeWide" in asked && asked.nodeWide ? error : ofPod(error, pod);
      if (policy === "closed") throw named;
      const nodeWide = "nodeWide" in asked && asked.nodeWide;
      missing.push({ program: asked.program, reason: named.message, ...(nodeWide && { nodeWide }) });
    }
  }
  // The sort is stable: among equals the node's, which come first here, stay first, and all stay as listed.
  selected.sort((a, b) => a.priority - b.priority);
  return { selected, missing };
}

function nodeWideWishes(chain: NodeConfig["chain"]): Wish[] {
  return chain.map(({ params = {}, ...entry }, index) => ({
    ...entry,
    params,
    source: `chain[${index}] of the node's configuration`,
    paramSources: {},
    nodeWide: true,
  }));
}

/** Whoever wrote the annotation reads this among the events of a pod, perhaps of another one's. */
function ofPod(error: RemoraError, pod: PodIdentity | null): RemoraError {
  if (pod === null) return error;
  return prefixed(error, `pod ${pod.namespace}/${pod.name}`);
}

function prefixed(error: RemoraError, where: string): RemoraError {
  return new RemoraError(error.code, `${where}: ${error.message}`, { details: error.details, cause: error });
}

function requireAllowed(asked: Wish, denied: string | undefined): void {
  if (denied !== undefined) throw new RemoraError(code.programNotAllowed, `${asked.source}: ${denied}`);
}

function findProgram(catalog: Pick<Catalog, "get">, asked: Wish): CatalogProgram {
  try {
    return catalog.get(asked.program);
  } catch (error) {
    throw error instanceof RemoraError ? prefixed(error, asked.source) : error;
  }
}

/** Checks a wish against its program and turns it into what is to be planned. */
function check(asked: Wish, program: CatalogProgram): Selected {
  return {
    program,
    priority: asked.priority ?? program.priority,
    directions: directionsOf(asked, program),
    at: asked.at ?? program.at,
    ...parametersOf(asked, program),
    nodeWide: asked.nodeWide,
  };
}

function directionsOf(asked: Wish, { name, entry }: CatalogProgram): Direction[] {
  const offered = directions.filter((direction) => entry[direction] !== undefined);
  const lacking = asked.directions?.find((direction) => !offered.includes(direction));
  if (lacking === undefined) return offered.filter((direction) => asked.directions?.includes(direction) ?? true);
  const wrong: ErrorCode = asked.nodeWide ? code.invalidConfig : code.badAnnotation;
  const reason = `program ${quote(name)} has nothing for ${lacking}, only for ${offered.join(" and ")}`;
  throw new RemoraError(wrong, `${asked.source}: ${reason}`);
}

function parametersOf(asked: Wish, program: CatalogProgram): Pick<Selected, "parameters" | "shown"> {
  const parameters = readParameters(program.path, program.info);
  const values = new Map([...Object.entries(program.params), ...Object.entries(asked.params)]);
  const bytes: Selected["parameters"] = [];
  const shown: [name: string, value: ParameterText][] = [];
  for (const [name, value] of values) {
    const setting = set(asked, program, parameters, name, value);
    bytes.push(...setting.bytes);
    shown.push([name, setting.shown]);
  }
  return { parameters: bytes, shown: Object.fromEntries(shown) };
}

function set(asked: Wish, program: CatalogProgram, parameters: Parameters, name: string, value: ParameterText) {
  try {
    return setParameter(parameters, name, value);
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    const own = Object.hasOwn(asked.paramSources, name) ? asked.paramSources[name] : undefined;
    const where = own ?? `${asked.source}: program ${program.name}, parameter ${name}`;
    throw new RemoraError(code.badParameter, `${where}: ${withValue(error.message, String(value))}`);
  }
}
