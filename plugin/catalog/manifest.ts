// SPDX-License-Identifier: Apache-2.0
/**
 * `<name>.yaml` beside `<name>.bpf.o`: what the object cannot say of itself, or says otherwise than the node wants it.
 * Here only its own shape is checked; whether the object has what it names is the catalog's question.
 */

import * as z from "zod/mini";
import { code, RemoraError } from "../errors.ts";
import { mapping } from "../mapping.ts";
import type { FailurePolicy, ParameterText, Place } from "../model.ts";
import { globPattern } from "./glob.ts";

/** TC_ACT_* of include/uapi/linux/pkt_cls.h. */
export const verdicts = {
  unspec: -1,
  ok: 0,
  reclassify: 1,
  shot: 2,
  pipe: 3,
  stolen: 4,
  queued: 5,
  repeat: 6,
  redirect: 7,
  trap: 8,
} as const;
type Verdict = keyof typeof verdicts;

export interface Manifest {
  version?: string | undefined;
  description?: string | undefined;
  priority?: number | undefined;
  entry?: { ingress?: string | undefined; egress?: string | undefined } | undefined;
  /** TC_ACT_* numbers, each once. */
  proceedOn?: number[] | undefined;
  maps: Record<string, "pod" | "node">;
  params: Record<string, ParameterText>;
  sha256?: string | undefined;
  failurePolicy?: FailurePolicy | undefined;
  namespaces?: string[] | undefined;
  at?: Place | undefined;
  /** `false`: the node's own chain must not name it, since it would then be on every pod. */
  nodeWide?: boolean | undefined;
}

/** The yaml package's `parse`. It is imported only where there is a manifest, see `openCatalog`. */
export type ParseYaml = (text: string, options: { logLevel: "error"; prettyErrors: true }) => unknown;

const verdictNames = Object.keys(verdicts) as Verdict[];
const nonEmpty = () => z.string("must be text").check(z.minLength(1, "must not be empty"));

const parameterValue = "must be text, a boolean or a number below 2^53 (write larger ones in quotes)";
const isExact = (value: number): boolean => !Number.isInteger(value) || Number.isSafeInteger(value);
const parameterText = z.union(
  [z.string(), z.boolean(), z.number().check(z.refine(isExact, parameterValue))],
  parameterValue,
);
const namespace = "must be a namespace, where * stands for any text";

const schema = z.strictObject(
  {
    version: z.optional(
      z.string('must be text: write it in quotes, such as "1.10"').check(z.minLength(1, "must not be empty")),
    ),
    description: z.optional(z.string("must be text")),
    priority: z.optional(
      z
        .int("must be a whole number from 0 to 1000")
        .check(z.minimum(0, "must be 0 or more"), z.maximum(1000, "must be 1000 or less")),
    ),
    entry: z.optional(
      z
        .strictObject(
          { ingress: z.optional(nonEmpty()), egress: z.optional(nonEmpty()) },
          "must be a mapping of ingress, egress or both to functions",
        )
        .check(z.refine((entry) => entry.ingress ?? entry.egress, "must name a function for ingress, egress or both")),
    ),
    proceedOn: z.optional(
      z.array(z.enum(verdictNames, `must be one of ${verdictNames.join(", ")}`), "must be a list of verdicts"),
    ),
    maps: z.optional(
      mapping(z.enum(["pod", "node"], "must be pod or node"), "must be a mapping from map to pod or node"),
    ),
    params: z.optional(mapping(parameterText, "must be a mapping from parameter to value")),
    sha256: z.optional(
      z.string("must be 64 hexadecimal digits").check(z.regex(/^[0-9a-f]{64}$/i, "must be 64 hexadecimal digits")),
    ),
    failurePolicy: z.optional(z.enum(["closed", "open"], "must be closed or open")),
    namespaces: z.optional(
      z.array(
        z.string(namespace).check(z.regex(globPattern, namespace)),
        "must be a list of namespaces, where * stands for any text",
      ),
    ),
    at: z.optional(z.enum(["pod", "host"], "must be pod or host")),
    nodeWide: z.optional(z.boolean("must be true or false")),
  },
  "must be a mapping of fields",
);

/** Reads a manifest's text. Throws RemoraError badManifest that names the file and each field that is wrong. */
export function readManifest(path: string, text: string, parseYaml: ParseYaml): Manifest {
  const parsed = schema.safeParse(parseText(path, text, parseYaml));
  if (!parsed.success) {
    throw new RemoraError(code.badManifest, `${path}: ${parsed.error.issues.map(issueText).join("; ")}`);
  }
  const { proceedOn, maps, params, sha256, ...rest } = parsed.data;
  return {
    ...rest,
    proceedOn: proceedOn && [...new Set(proceedOn.map((name) => verdicts[name]))],
    maps: maps ?? {},
    params: params ?? {},
    sha256: sha256?.toLowerCase(),
  };
}

/** An empty file is a manifest without fields. */
function parseText(path: string, text: string, parseYaml: ParseYaml): unknown {
  try {
    return parseYaml(text, { logLevel: "error", prettyErrors: true }) ?? {};
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).trim();
    const [first = reason] = reason.split("\n");
    throw new RemoraError(code.badManifest, `${path} is not YAML: ${first.replace(/:$/, "")}`, { details: reason });
  }
}

function issueText(issue: z.core.$ZodIssue): string {
  const where = issue.path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  if (issue.code === "unrecognized_keys") {
    const inside = where === "" ? "" : ` in ${where.slice(1)}`;
    const known = where === ".entry" ? ["ingress", "egress"] : Object.keys(schema.shape);
    return `unknown ${issue.keys.length === 1 ? "field" : "fields"} ${issue.keys.join(", ")}${inside} (known: ${known.join(", ")})`;
  }
  return where === "" ? `it ${issue.message}` : `${where.slice(1)} ${issue.message}`;
}
