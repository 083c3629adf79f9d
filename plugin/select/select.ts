// SPDX-License-Identifier: Apache-2.0
/**
 * What runs on a pod: the node's chain and the pod's own wishes, checked against catalog and policy, in order.
 *
 * Parameters: the object's default, over it the manifest's, the entry's, the annotation's. Order: by priority, lower
 * first; among equals the node's before the pod's, then as listed. So a pod can put programs before, between and
 * behind those of the node, and neither remove nor exchange any of them. A parameter that is filled from the pod's interface
 * is the node's alone to set otherwise: it says who the pod is.
 */

import type { Catalog } from "../catalog/catalog.ts";
import { type Parameters, readParameters, setParameter } from "../catalog/parameters.ts";
import { BadValue } from "../catalog/value.ts";
import { quote } from "../catalog/words.ts";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import { type Direction, directions } from "../kernel/port.ts";
import type {
  Assigned,
  CatalogProgram,
  Missing,
  NodeConfig,
  ParameterText,
  PodIdentity,
  Selected,
  Wish,
} from "../model.ts";
import { readAnnotations, withValue } from "./annotations.ts";
import { deniedByManifest, deniedByNode, deniedNodeWide } from "./policy.ts";

export interface SelectInput {
  config: Pick<NodeConfig, "chain" | "allow" | "failurePolicy">;
  annotations: Readonly<Record<string, string>> | undefined;
  pod: PodIdentity | null;
  catalog: Pick<Catalog, "get">;
  /** What the pod's interface was given, asked for where a parameter is filled from it. Undefined: there is no interface, and such parameters keep their defaults. */
  assigned?: (() => Assigned) | undefined;
  /** The annotations are the words of the node's administrator, who may set every parameter, and say where a program stands. */
  trusted?: boolean;
  /** All that is asked for runs already: whether it may was decided when it was attached. */
  running?: boolean;
}

/**
 * Selects and orders. A wish that cannot be had, whatever the reason (unknown, not allowed, a bad annotation or
 * parameter), throws RemoraError under the failure policy `closed`; under `open` it is left out and listed as missing.
 * A program's manifest may say the policy for it; what is refused before the program is found follows the node's.
 */
export function select(input: SelectInput): {
  selected: Selected[];
  missing: Missing[];
} {
  const { config, annotations, pod, catalog, trusted } = input;
  const namespace = pod?.namespace ?? "";
  const selected: Selected[] = [];
  const missing: Missing[] = [];
  for (const asked of [...nodeWideWishes(config.chain), ...readAnnotations(annotations, { trusted })]) {
    let policy = config.failurePolicy;
    try {
      if ("error" in asked) throw asked.error;
      if (!asked.nodeWide) requireAllowed(asked, deniedByNode(config.allow, namespace, asked.program));
      const program = findProgram(catalog, asked);
      policy = program.failurePolicy ?? policy;
      if (!input.running)
        requireAllowed(asked, asked.nodeWide ? deniedNodeWide(program) : deniedByManifest(program, namespace));
      selected.push(check(asked, program, input));
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
function check(asked: Wish, program: CatalogProgram, input: SelectInput): Selected {
  return {
    program,
    priority: asked.priority ?? program.priority,
    directions: directionsOf(asked, program),
    at: asked.at ?? program.at,
    ...parametersOf(asked, program, input),
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

function parametersOf(
  asked: Wish,
  program: CatalogProgram,
  { assigned, trusted }: SelectInput,
): Pick<Selected, "parameters" | "shown"> {
  const parameters = readParameters(program.path, program.info);
  if (!asked.nodeWide && !trusted) refuseFilled(asked, program, parameters);
  const values = new Map([...Object.entries(program.params), ...Object.entries(asked.params)]);
  if (assigned)
    for (const [name, value] of filled(asked, program, parameters, values, assigned)) values.set(name, value);
  const bytes: Selected["parameters"] = [];
  const shown: [name: string, value: ParameterText][] = [];
  for (const [name, value] of values) {
    const setting = set(asked, program, parameters, name, value);
    bytes.push(...setting.bytes);
    shown.push([name, setting.shown]);
  }
  return { parameters: bytes, shown: Object.fromEntries(shown) };
}

/** Who could set what tells the pod from others could be another. @throws RemoraError badParameter. */
function refuseFilled(asked: Wish, program: CatalogProgram, parameters: Parameters): void {
  for (const [name, value] of Object.entries(asked.params)) {
    if (!parameters.get(name)?.from) continue;
    const reason = "is filled from the pod's own interface, and is not for a pod to set";
    throw new RemoraError(code.badParameter, `${sourceOf(asked, program, name)}: ${withValue(reason, String(value))}`);
  }
}

/** The values of the parameters that nobody has set and that are filled from the interface. */
function* filled(
  asked: Wish,
  program: CatalogProgram,
  parameters: Parameters,
  values: ReadonlyMap<string, ParameterText>,
  assigned: () => Assigned,
): Generator<[name: string, value: string]> {
  for (const { name, from } of parameters.values()) {
    if (from === null || values.has(name)) continue;
    const { addresses, mac, mtu } = assigned();
    const isSix = (address: string): boolean => address.includes(":");
    const value = {
      addresses: () => addresses.join(", "),
      ipv4: () => addresses.find((address) => !isSix(address)),
      ipv6: () => addresses.find(isSix),
      mac: () => mac,
      mtu: () => String(mtu),
      directions: () => String(directionsOf(asked, program).reduce((sum, one) => sum + (one === "ingress" ? 1 : 2), 0)),
    }[from]();
    if (value) yield [name, value];
    else if (from === "addresses")
      throw new RemoraError(
        code.badParameter,
        `${asked.source}: program ${program.name}, parameter ${name}: it is filled from the addresses of the pod's interface, ` +
          "and that was given none: set it in the node's configuration, or leave the program out",
      );
  }
}

function sourceOf(asked: Wish, program: CatalogProgram, name: string): string {
  const own = Object.hasOwn(asked.paramSources, name) ? asked.paramSources[name] : undefined;
  return own ?? `${asked.source}: program ${program.name}, parameter ${name}`;
}

function set(asked: Wish, program: CatalogProgram, parameters: Parameters, name: string, value: ParameterText) {
  try {
    return setParameter(parameters, name, value);
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    const where = sourceOf(asked, program, name);
    throw new RemoraError(code.badParameter, `${where}: ${withValue(error.message, String(value))}`);
  }
}
