// SPDX-License-Identifier: Apache-2.0
/**
 * A pod's annotations as wishes. All of the pod's annotations arrive here; ours are `remora.io/programs`, a list of
 * names or JSON entries, and `<program>.remora.io/<parameter>`. Any other key of these domains is an error, since it
 * is most likely a slip and would otherwise do nothing, silently.
 *
 * A parameter's annotation wins over the entry's own `params`. Where a program is listed more than once, such an
 * annotation could mean either of them, so it is refused: parameters then belong into the entries.
 */

import * as z from "zod/mini";
import { isProgramName, nameRule } from "../catalog/catalog.ts";
import { didYouMean, quote } from "../catalog/words.ts";
import { code, RemoraError } from "../errors.ts";
import { directions } from "../kernel/port.ts";
import { mapping } from "../mapping.ts";
import type { Wish } from "../model.ts";

const domain = "remora.io";
export const programsKey = `${domain}/programs`;

/** A wish that is none: what was asked for, as far as that can be told, and why it cannot be had. */
export interface Refused {
  program: string;
  error: RemoraError;
}

interface ParameterAnnotation {
  key: string;
  program: string;
  parameter: string;
  value: string;
}

/**
 * Reads a pod's own wishes, in the order they are listed. Nothing is thrown: each refusal stands in the list.
 *
 * @param trusted they are the words of the node's administrator, who may say where a program stands (`at`).
 */
export function readAnnotations(
  annotations: Readonly<Record<string, string>> | undefined,
  { trusted = false }: { trusted?: boolean | undefined } = {},
): (Wish | Refused)[] {
  let asked: (Wish | Refused)[] = [];
  const parameters: ParameterAnnotation[] = [];
  // Sorted, since runtimes pass them in any order and the first refusal is the one that people see.
  for (const key of Object.keys(annotations ?? {}).sort()) {
    const value = annotations?.[key] ?? "";
    const slash = key.indexOf("/");
    const prefix = (slash < 0 ? key : key.slice(0, slash)).toLowerCase();
    if (prefix !== domain && !prefix.endsWith(`.${domain}`)) continue;
    if (key === programsKey) asked = [...readPrograms(value, trusted), ...asked];
    else if (prefix === domain || slash < 0 || !key.startsWith(prefix)) asked.push(unknownKey(key, value));
    else parameters.push({ key, program: prefix.slice(0, -domain.length - 1), parameter: key.slice(slash + 1), value });
  }
  return firstRefusals(withParameters(asked, parameters));
}

/**
 * Each refusal becomes a line of the log and a part of the record where the policy is `open`, and a pod may bring thousands:
 * the first ones tell what is wrong.
 */
const mostRefusals = 32;

function firstRefusals(all: (Wish | Refused)[]): (Wish | Refused)[] {
  const refusals = all.filter((one) => "error" in one);
  if (refusals.length <= mostRefusals) return all;
  const left = new Set(refusals.slice(mostRefusals));
  const reason = `${left.size} more annotations of ${domain} are refused; the first ${mostRefusals} are named`;
  const last = { program: domain, error: new RemoraError(code.badAnnotation, reason) };
  return [...all.filter((one) => !("error" in one && left.has(one))), last];
}

function refused(program: string, key: string, value: string, reason: string): Refused {
  return { program, error: new RemoraError(code.badAnnotation, `annotation ${key}: ${withValue(reason, value)}`) };
}

/** Adds the annotation's value where the reason does not quote it already. */
export function withValue(reason: string, value: string): string {
  const quoted = quote(value);
  return reason.includes(quoted) ? reason : `${reason} (the value is ${quoted})`;
}

function unknownKey(key: string, value: string): Refused {
  const meant = didYouMean(key, [programsKey]) || ":";
  const reason = `annotation ${key} is not known${meant} there are ${programsKey} and <program>.${domain}/<parameter>`;
  return { program: key, error: new RemoraError(code.badAnnotation, withValue(reason, value)) };
}

// ---- remora.io/programs ----------------------------------------------------------------------------------------

/**
 * No more can have a place: 32 in each direction inside the pod, 32 at the host's end. What really fits is planned
 * later; this keeps an absurd list from being worked through.
 */
const mostEntries = 96;

function readPrograms(value: string, trusted: boolean): (Wish | Refused)[] {
  const asked = /^\s*[[{]/.test(value) ? readJson(value, trusted) : readNames(value);
  if (asked.length <= mostEntries) return asked;
  const reason = `annotation ${programsKey}: lists ${asked.length} programs, and a chain has 32 places per direction`;
  return [{ program: programsKey, error: new RemoraError(code.chainTooLong, reason) }];
}

function wish(program: string): Wish {
  return { program, params: {}, source: `annotation ${programsKey}`, paramSources: {}, nodeWide: false };
}

/** Names between commas; a comma too many is forgiven, as in a list over several lines. */
function readNames(value: string): (Wish | Refused)[] {
  const names = value.split(",").map((name) => name.trim());
  return names.filter(Boolean).map((name) => {
    if (isProgramName(name)) return wish(name);
    const hint = /[\s;]/.test(name) ? "names are separated by commas" : `a name is ${nameRule}`;
    return refused(name, programsKey, value, `${quote(name)} is not a program's name: ${hint}`);
  });
}

const programName = `must be a program's name: ${nameRule}`;
const priority = "must be a whole number from 0 to 1000";
const eachOnce = 'must be a list of "ingress", "egress" or both, each once';
const notAnEntry = 'must be an object such as {"program": "rate-limit"}';
const fields = {
  program: z.string(programName).check(z.refine(isProgramName, programName)),
  priority: z.optional(z.int(priority).check(z.minimum(0, priority), z.maximum(1000, priority))),
  params: z.optional(
    mapping(
      z.union([z.string(), z.number(), z.boolean()], "must be text, a number, true or false"),
      'must be an object such as {"rate": "10Mbit"}',
    ),
  ),
  directions: z.optional(
    z
      .array(z.enum(directions, 'must be "ingress" or "egress"'), eachOnce)
      .check(z.refine((list) => list.length > 0 && new Set(list).size === list.length, eachOnce)),
  ),
};
const entrySchema = z.strictObject(fields, notAnEntry);
const trustedSchema = z.strictObject(
  { ...fields, at: z.optional(z.enum(["pod", "host"], 'must be "pod" or "host"')) },
  notAnEntry,
);

function readJson(value: string, trusted: boolean): (Wish | Refused)[] {
  const schema = trusted ? trustedSchema : entrySchema;
  let entries: unknown;
  try {
    entries = JSON.parse(value);
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/, *"?.*(is not valid JSON)/s, " $1") : "";
    return [refused(programsKey, programsKey, value, `is neither a list of names nor valid JSON: ${reason}`)];
  }
  if (!Array.isArray(entries))
    return [refused(programsKey, programsKey, value, 'must be a JSON list: [{"program": "rate-limit"}]')];
  return entries.map((entry: unknown, index) => {
    const parsed = schema.safeParse(entry);
    if (!parsed.success) {
      const known = Object.keys(schema.shape);
      const reason = parsed.error.issues.map((issue) => issueText(issue, `[${index}]`, known)).join("; ");
      return refused(programNameIn(entry), programsKey, value, reason);
    }
    const { program, params, ...rest } = parsed.data;
    const present = Object.fromEntries(Object.entries(rest).filter(([, field]) => field !== undefined));
    return { ...wish(program), params: params ?? {}, ...present };
  });
}

function programNameIn(entry: unknown): string {
  const named = typeof entry === "object" && entry !== null && "program" in entry;
  return named && typeof entry.program === "string" ? entry.program : programsKey;
}

function issueText(issue: z.core.$ZodIssue, entry: string, known: string[]): string {
  if (issue.code !== "unrecognized_keys") {
    const field = issue.path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
    return `${entry}${field} ${issue.message}`;
  }
  const [key = ""] = issue.keys;
  if (key === "at") return `${entry}.at is not for a pod to say: where a program stands, the node decides`;
  return `${entry} has an unknown field ${quote(key)}${didYouMean(key, known) || ":"} there are ${known.join(", ")}`;
}

// ---- <program>.remora.io/<parameter> ---------------------------------------------------------------------------

/** In one pass over each list: a pod may bring thousands of annotations, and its start waits. */
function withParameters(asked: (Wish | Refused)[], parameters: ParameterAnnotation[]): (Wish | Refused)[] {
  const ofProgram = Map.groupBy(parameters, ({ program }) => program);
  const times = Map.groupBy(asked, ({ program }) => program);
  const result = asked.map((one) => {
    const own = "source" in one ? ofProgram.get(one.program) : undefined;
    const [first] = own ?? [];
    if (!("source" in one) || own === undefined || first === undefined) return one;
    const listed = times.get(one.program)?.length ?? 0;
    if (listed === 1) return setIn(one, own);
    const reason = `${programsKey} lists ${quote(one.program)} ${listed} times, so which is meant is not clear: set the parameter in the JSON form's "params"`;
    return refused(one.program, first.key, first.value, reason);
  });
  for (const [program, [first]] of ofProgram) {
    if (first === undefined || times.has(program)) continue;
    const reason = `program ${quote(program)} is not selected by ${programsKey}${whichMeant(program, asked)}`;
    result.push(refused(program, first.key, first.value, reason));
  }
  return result;
}

function whichMeant(program: string, asked: (Wish | Refused)[]): string {
  const selected = asked.map((one) => one.program).filter(isProgramName);
  const underscored = selected.find((name) => name.includes("_") && name.replaceAll("_", "-") === program);
  if (underscored === undefined) return didYouMean(program, selected);
  return `; Kubernetes takes no underscore here, so the parameters of ${quote(underscored)} go into the JSON form's "params"`;
}

function setIn(asked: Wish, own: ParameterAnnotation[]): Wish {
  const given = own.map(({ parameter, value }) => [parameter, value] as const);
  const sources = own.map(({ parameter, key }) => [parameter, `annotation ${key}`] as const);
  return {
    ...asked,
    // Whatever a parameter is called, `fromEntries` makes it a property of its own.
    params: Object.fromEntries([...Object.entries(asked.params), ...given]),
    paramSources: Object.fromEntries(sources),
  };
}
