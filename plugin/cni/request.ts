// SPDX-License-Identifier: Apache-2.0
/**
 * The environment of a CNI call: which variables there are, which verb needs which, and what they may hold. The rules
 * are those of containernetworking/cni (`pkg/skel/skel.go`, `pkg/utils/utils.go`, `pkg/types/args.go`), so that
 * Remora refuses what every other plugin refuses.
 */
import { code, RemoraError } from "../errors.ts";
import type { NodeConfig, PodIdentity } from "../model.ts";
import { show } from "./json.ts";
import type { RemovalConfig } from "./removal.ts";
import type { PrevResult } from "./result.ts";
import type { CniVersion } from "./version.ts";

export const verbNames = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] as const;
export type VerbName = (typeof verbNames)[number];

/** What every verb is told. */
export interface Request {
  config: NodeConfig;
  cniVersion: CniVersion;
}
/** What the verbs about one attachment are told. `netns` is a path; in a DEL it may be empty, or name nothing. */
interface Attachment {
  containerId: string;
  netns: string;
  ifname: string;
}
export interface AddRequest extends Request, Attachment {
  /** Null where the runtime named no pod (no Kubernetes). */
  pod: PodIdentity | null;
  /** The pod's annotations, all of them. Undefined where the runtime passed none: the capability is not listed. */
  annotations: Record<string, string> | undefined;
  /** For reading only: what ADD answers is the original, and that is dispatch's. */
  prevResult: PrevResult;
}
export type CheckRequest = AddRequest;
export interface DelRequest extends Attachment {
  config: RemovalConfig;
  cniVersion: CniVersion;
}
export interface GcRequest extends Request {
  /** What still lives, of this network. */
  validAttachments: { containerId: string; ifname: string }[];
}
export type StatusRequest = Request;

export type Environment = Record<string, string | undefined>;

/** The variables of a call, checked. What a verb does not need is empty where it was not set. */
export interface Variables {
  verb: VerbName;
  containerId: string;
  netns: string;
  ifname: string;
  args: string;
  /** The caller insists on a namespace that is the plugin's own. */
  netnsOverride: boolean;
}

interface Variable {
  name: string;
  neededBy: readonly VerbName[];
  /** The reason why a value is refused, or undefined. */
  refuses?: (value: string) => string | undefined;
}

const variables: readonly Variable[] = [
  { name: "CNI_COMMAND", neededBy: verbNames },
  { name: "CNI_CONTAINERID", neededBy: ["ADD", "DEL", "CHECK"], refuses: refusesContainerId },
  { name: "CNI_NETNS", neededBy: ["ADD", "CHECK"] },
  { name: "CNI_IFNAME", neededBy: ["ADD", "DEL", "CHECK"], refuses: refusesInterfaceName },
  { name: "CNI_PATH", neededBy: ["ADD", "DEL", "CHECK", "GC", "STATUS"] },
];

/** Reads the environment. Throws code 4: an unknown verb, everything that is missing at once, or the first bad value. */
export function readEnvironment(env: Environment): Variables {
  const verb = env.CNI_COMMAND ?? "";
  if (verb !== "" && !isVerb(verb))
    throw invalid(`CNI_COMMAND: unknown verb ${quote(verb)}, expected one of ${verbNames.join(", ")}`);
  const needed = variables.filter(
    ({ name, neededBy }) => name === "CNI_COMMAND" || (isVerb(verb) && neededBy.includes(verb)),
  );
  const missing = needed.filter(({ name }) => !env[name]).map(({ name }) => name);
  if (!isVerb(verb) || missing.length > 0)
    throw invalid(`required environment variables missing: ${missing.join(", ")}`);
  for (const { name, refuses } of needed) {
    const value = env[name] ?? "";
    const reason = refuses?.(value);
    if (reason !== undefined) throw invalid(`${name}: ${quote(value)} ${reason}`);
  }
  return {
    verb,
    containerId: env.CNI_CONTAINERID ?? "",
    netns: env.CNI_NETNS ?? "",
    ifname: env.CNI_IFNAME ?? "",
    args: env.CNI_ARGS ?? "",
    netnsOverride: /^(1|true)$/i.test(env.CNI_NETNS_OVERRIDE ?? ""),
  };
}

/** What CNI lets a container id and a network's name be. */
const nameSyntax = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** The name of a network configuration. Throws code 7 where there is none that CNI would take, code 6 for what is no text. */
export function readNetworkName(name: unknown): string {
  if (name === undefined || name === null || name === "")
    throw new RemoraError(code.invalidConfig, "name is missing: the network configuration must name its network");
  if (typeof name !== "string") throw new RemoraError(code.decodingFailure, `name: expected text, got ${show(name)}`);
  if (!nameSyntax.test(name))
    throw new RemoraError(
      code.invalidConfig,
      `name: ${show(name)} must begin with a letter or digit and hold only those, '_', '.' and '-'`,
    );
  return name;
}

/** Why this cannot be the name of a network device (the kernel's `dev_valid_name`), or undefined. */
export function refusesInterfaceName(name: string): string | undefined {
  if (name === "") return "is empty";
  if (Buffer.byteLength(name) > 15) return "is too long, a device's name has at most 15 bytes";
  if (name === "." || name === "..") return "is no device's name";
  if (/[/:\s]/.test(name)) return "contains / or : or whitespace";
  return undefined;
}

function refusesContainerId(id: string): string | undefined {
  return nameSyntax.test(id) ? undefined : "must begin with a letter or digit and hold only those, '_', '.' and '-'";
}

/** The arguments that Kubernetes runtimes give every plugin in CNI_ARGS. */
const knownArguments = [
  "IgnoreUnknown",
  "K8S_POD_NAMESPACE",
  "K8S_POD_NAME",
  "K8S_POD_UID",
  "K8S_POD_INFRA_CONTAINER_ID",
];

/**
 * The pod that CNI_ARGS name (`K=V;K=V`, in any order), or null where they name none. Throws code 4 for a malformed
 * pair, and for a key that nobody knows unless IgnoreUnknown says that this is fine.
 */
export function readPod(args: string): PodIdentity | null {
  const values = new Map<string, string>();
  for (const pair of args === "" ? [] : args.split(";")) {
    const [key, value, ...more] = pair.split("=");
    if (!key || value === undefined || more.length > 0)
      throw invalid(`CNI_ARGS: ${quote(pair)} is no pair, expected KEY=VALUE;KEY=VALUE`);
    values.set(key, value);
  }
  const ignore = values.get("IgnoreUnknown") ?? "false";
  if (!/^(0|1|true|false)$/i.test(ignore))
    throw invalid(`CNI_ARGS: IgnoreUnknown=${ignore}, expected 0, 1, true or false`);
  const unknown = [...values.keys()].filter((key) => !knownArguments.includes(key));
  if (unknown.length > 0 && !/^(1|true)$/i.test(ignore))
    throw invalid(`CNI_ARGS: unknown keys ${unknown.join(", ")}; IgnoreUnknown=1 would let them pass`);
  const namespace = values.get("K8S_POD_NAMESPACE");
  const name = values.get("K8S_POD_NAME");
  return namespace && name ? { namespace, name, uid: values.get("K8S_POD_UID") ?? "" } : null;
}

function isVerb(value: string): value is VerbName {
  return (verbNames as readonly string[]).includes(value);
}

function quote(value: string): string {
  return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value);
}

function invalid(message: string): RemoraError {
  return new RemoraError(code.invalidEnvironment, message);
}
