// SPDX-License-Identifier: Apache-2.0
/**
 * The network configuration, of one plugin of a conflist: strict on Remora's own fields, loose on CNI's envelope
 * around them.
 *
 * zod/mini, for the time an ADD takes: bundled into a single executable it adds 3.5 ms to Node's start, full zod 20 ms.
 * It has no messages of its own; each rule here says what would be right, and `explain` puts path and value to it.
 */
import * as z from "zod/mini";
import { code, RemoraError } from "../errors.ts";
import { mapping } from "../mapping.ts";
import type { NodeConfig } from "../model.ts";
import { wrong } from "./errors.ts";
import { isObject, type JsonObject, show } from "./json.ts";
import { defaultBpffs, defaultLevel } from "./removal.ts";

const text = (expected: string) => z.string(expected).check(z.minLength(1, expected));
const path = z.string("an absolute path").check(z.startsWith("/", "an absolute path"));
/** What no namespace and no program can be called would silently forbid or allow nothing. */
const glob = /^[a-z0-9._*-]+$/;
const programGlob = "a program's name or glob";
const priority = "a whole number from 0 to 1000";
const eachOnce = 'a list of "ingress", "egress" or both, each once';

const entryShape = {
  program: text("a program's name"),
  params: z.exactOptional(
    mapping(
      z.union([z.string(), z.number(), z.boolean()], "text, a number, true or false"),
      "an object with a value for each parameter",
    ),
  ),
  priority: z.exactOptional(z.int(priority).check(z.minimum(0, priority), z.maximum(1000, priority))),
  directions: z.exactOptional(
    z.array(z.enum(["ingress", "egress"], '"ingress" or "egress"'), eachOnce).check(
      z.minLength(1, eachOnce),
      z.refine((list) => new Set(list).size === (list as unknown[]).length, eachOnce),
    ),
  ),
  at: z.exactOptional(z.enum(["pod", "host"], '"pod" or "host"')),
};
const agentShape = { socket: path };
const levels = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
const logShape = {
  level: z._default(z.enum(levels, `one of ${levels.join(", ")}`), defaultLevel),
  file: z.exactOptional(path),
};
/** Remora's own fields, with their defaults. */
const ownShape = {
  programDirs: z._default(z.array(path, "a list of absolute paths"), ["/etc/remora/programs"]),
  chain: z._default(
    z.array(z.strictObject(entryShape, 'an object such as {"program": "count"}'), "a list of entries"),
    [],
  ),
  allow: z._default(
    mapping(
      z.array(z.string(programGlob).check(z.regex(glob, programGlob)), "a list of program globs"),
      "an object from namespace glob to a list of program globs",
      glob,
    ),
    { "*": ["*"] },
  ),
  failurePolicy: z._default(z.enum(["closed", "open"], '"closed" or "open"'), "closed"),
  hook: z._default(z.enum(["auto", "tcx", "clsact"], '"auto", "tcx" or "clsact"'), "auto"),
  bpffs: z._default(path, defaultBpffs),
  kubeconfig: z.exactOptional(path),
  agent: z._default(z.strictObject(agentShape, 'an object such as {"socket": "/run/remora/agent.sock"}'), {
    socket: "/run/remora/agent.sock",
  }),
  log: z._default(z.strictObject(logShape, 'an object such as {"level": "info"}'), { level: defaultLevel }),
};
const ownFields = z.strictObject(ownShape);

/**
 * The envelope's fields (CNI specification and libcni; deviceID and pciBusID: Multus, into each entry of a list whose network
 * has a device of SR-IOV or the like); what they hold is for the runtime and the other plugins.
 */
const envelopeFields = [
  "args",
  "capabilities",
  "cniVersion",
  "cniVersions",
  "deviceID",
  "disableCheck",
  "disableGC",
  "dns",
  "ipMasq",
  "ipam",
  "loadOnlyInlinedPlugins",
  "name",
  "pciBusID",
  "prevResult",
  "runtimeConfig",
  "type",
];
const isEnvelope = (field: string): boolean => envelopeFields.includes(field) || field.startsWith("cni.dev/");

/** Remora's fields, checked, with their defaults. Throws code 7 with everything that is wrong. `network` is checked already. */
export function readConfig(configuration: JsonObject, network: string): NodeConfig {
  const result = ownFields.safeParse(withoutEnvelope(configuration));
  if (!result.success) throw explain(result.error.issues, configuration);
  return { network, ...result.data };
}

const annotationsCapability = "io.kubernetes.cri.pod-annotations";

/** The pod's annotations, or undefined where the runtime passed none. Throws code 7 for what is no object of strings. */
export function readAnnotations(configuration: JsonObject): Record<string, string> | undefined {
  const { runtimeConfig } = configuration;
  if (runtimeConfig === undefined || runtimeConfig === null) return undefined;
  if (!isObject(runtimeConfig)) throw wrong("runtimeConfig", "an object", runtimeConfig);
  const annotations = runtimeConfig[annotationsCapability];
  if (annotations === undefined || annotations === null) return undefined;
  const where = `runtimeConfig["${annotationsCapability}"]`;
  if (!isObject(annotations)) throw wrong(where, "an object of texts", annotations);
  for (const [key, value] of Object.entries(annotations))
    if (typeof value !== "string") throw wrong(`${where}[${JSON.stringify(key)}]`, "text", value);
  return annotations as Record<string, string>;
}

/**
 * What still lives, as a GC is told: `cni.dev/valid-attachments`, or `cni.dev/attachments` as the specification once
 * spelled it; undefined where there is neither. Throws code 7 for what is no such list.
 */
export function readValidAttachments(configuration: JsonObject): { containerId: string; ifname: string }[] | undefined {
  const field = ["cni.dev/valid-attachments", "cni.dev/attachments"].find((name) => configuration[name] !== undefined);
  if (field === undefined) return undefined;
  const list = configuration[field] ?? [];
  if (!Array.isArray(list)) throw wrong(field, 'a list of {"containerID", "ifname"}', list);
  return list.map((item: unknown, index) => {
    if (!isObject(item) || typeof item.containerID !== "string" || typeof item.ifname !== "string")
      throw wrong(`${field}[${index}]`, 'an object {"containerID": text, "ifname": text}', item);
    return { containerId: item.containerID, ifname: item.ifname };
  });
}

function withoutEnvelope(configuration: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(configuration).filter(([field]) => !isEnvelope(field)));
}

type Issue = z.core.$ZodIssue;

/** One error for all that is wrong: path, what would be right, what is there. */
function explain(issues: readonly Issue[], configuration: JsonObject): RemoraError {
  const sentences = issues.map((issue) => {
    const where = spell(issue.path);
    if (issue.code !== "unrecognized_keys")
      return `${where}: expected ${issue.message}, got ${show(valueAt(configuration, issue.path))}`;
    const fields = issue.keys.map((key) => JSON.stringify(key)).join(", ");
    return `unknown field${issue.keys.length > 1 ? "s" : ""} ${fields}${where && ` in ${where}`}; known are ${knownFields(issue.path).join(", ")}`;
  });
  return new RemoraError(code.invalidConfig, sentences.join("; "));
}

function knownFields(where: Issue["path"]): string[] {
  const shapes: Record<string, object> = { chain: entryShape, agent: agentShape, log: logShape };
  return Object.keys(shapes[String(where[0])] ?? ownShape);
}

/** `chain[0].params.rate`, `allow["kube-*"][0]`. */
function spell(where: Issue["path"]): string {
  return where
    .map((step, index) => {
      if (typeof step === "number") return `[${step}]`;
      const key = String(step);
      if (!/^[A-Za-z_]\w*$/.test(key)) return `[${JSON.stringify(key)}]`;
      return index === 0 ? key : `.${key}`;
    })
    .join("");
}

function valueAt(configuration: unknown, where: Issue["path"]): unknown {
  return where.reduce<unknown>(
    (value, step) => (value as Record<PropertyKey, unknown> | undefined)?.[step],
    configuration,
  );
}
