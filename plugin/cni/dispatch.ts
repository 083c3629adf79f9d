// SPDX-License-Identifier: Apache-2.0
/**
 * One CNI call, from environment and stdin to what the process prints: verb by verb what must hold before it may run,
 * and what it answers. No process, no kernel: what is needed of them comes in as functions.
 */
import { code, RemoraError } from "../errors.ts";
import type { NodeConfig } from "../model.ts";
import { failure, type Outcome } from "./errors.ts";
import { isObject, type JsonObject, parseForReading, show } from "./json.ts";
import { readConfigForRemoval } from "./removal.ts";
import {
  type AddRequest,
  type CheckRequest,
  type DelRequest,
  type Environment,
  type GcRequest,
  readEnvironment,
  readNetworkName,
  readPod,
  type StatusRequest,
  type Variables,
  type VerbName,
} from "./request.ts";
import { passOn, readPrevResult } from "./result.ts";
import { type CniVersion, isAtLeast, newestVersion, readVersion, supportedVersions } from "./version.ts";

export type { Outcome } from "./errors.ts";
export type { AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest } from "./request.ts";

/** What Remora does for each verb. All of them: a verb cannot succeed by being absent. Each throws RemoraError. */
export interface Verbs {
  add(request: AddRequest): Promise<void>;
  del(request: DelRequest): Promise<void>;
  check(request: CheckRequest): Promise<void>;
  gc(request: GcRequest): Promise<void>;
  status(request: StatusRequest): Promise<void>;
}

/** A call as the process sees it. */
export interface RawRequest {
  env: Environment;
  /** Reads stdin to its end. Called where the verb needs a configuration, once the environment is known to be good. */
  stdin(): Promise<string>;
  /** True where the path names the network namespace that the plugin itself runs in; false where it names none. */
  isOwnNamespace(netns: string): boolean;
}

/** Loads the verbs once a call is known to be good; what they cost to load nobody else pays. */
export type LoadVerbs = (config: Pick<NodeConfig, "log">) => Verbs | Promise<Verbs>;

/** Handles one call. Never throws: whatever happens is an outcome. */
export async function dispatch(raw: RawRequest, loadVerbs: LoadVerbs): Promise<Outcome> {
  let cniVersion: CniVersion = newestVersion;
  try {
    const variables = readEnvironment(raw.env);
    if (variables.verb === "VERSION") return success({ cniVersion: newestVersion, supportedVersions });
    const text = await raw.stdin();
    const configuration = readObject(text);
    const network = readNetworkName(configuration.name);
    cniVersion = readVersion(configuration.cniVersion);
    if (!isAtLeast(cniVersion, since[variables.verb]))
      throw new RemoraError(
        code.incompatibleVersion,
        `incompatible CNI versions: ${variables.verb} came with CNI ${since[variables.verb]}, the configuration's cniVersion is ${cniVersion}`,
      );
    return await handlers[variables.verb]({ raw, variables, text, configuration, network, cniVersion }, loadVerbs);
  } catch (error) {
    return failure(error, cniVersion);
  }
}

/** What is known of a call once its verb may run. */
interface Call {
  raw: RawRequest;
  variables: Variables;
  text: string;
  configuration: JsonObject;
  network: string;
  cniVersion: CniVersion;
}
type ConfiguredVerb = Exclude<VerbName, "VERSION">;

/** The first version of the specification that has the verb. */
const since: Record<ConfiguredVerb, CniVersion> = {
  ADD: "0.3.1",
  DEL: "0.3.1",
  CHECK: "0.4.0",
  GC: "1.1.0",
  STATUS: "1.1.0",
};

const handlers: Record<ConfiguredVerb, (call: Call, loadVerbs: LoadVerbs) => Promise<Outcome>> = {
  async ADD(call, loadVerbs) {
    refuseOwnNamespace(call);
    const request = await readPodRequest(call);
    // The answer first: once something is attached, nothing may fail any more.
    const stdout = `${passOn(call.text, call.cniVersion)}\n`;
    await (await loadVerbs(request.config)).add(request);
    return { stdout, exitCode: 0 };
  },
  async CHECK(call, loadVerbs) {
    const request = await readPodRequest(call);
    await (await loadVerbs(request.config)).check(request);
    return silence;
  },
  async DEL(call, loadVerbs) {
    refuseOwnNamespace(call);
    const config = readConfigForRemoval(call.configuration, call.network);
    await (await loadVerbs(config)).del(attachmentOf(call, config));
    return silence;
  },
  async GC(call, loadVerbs) {
    const { readConfig, readValidAttachments } = await import("./schema.ts");
    const config = readConfig(call.configuration, call.network);
    const validAttachments = readValidAttachments(call.configuration);
    // libcni sends no list where its caller gave none (cnitool). Then nothing is known to be stale: to take it for an
    // empty list would strip every running pod.
    if (validAttachments === undefined) return silence;
    await (await loadVerbs(config)).gc({ config, cniVersion: call.cniVersion, validAttachments });
    return silence;
  },
  async STATUS(call, loadVerbs) {
    const { readConfig } = await import("./schema.ts");
    const config = readConfig(call.configuration, call.network);
    await (await loadVerbs(config)).status({ config, cniVersion: call.cniVersion });
    return silence;
  },
};

const silence: Outcome = { stdout: "", exitCode: 0 };

function success(value: object): Outcome {
  return { stdout: `${JSON.stringify(value)}\n`, exitCode: 0 };
}

/** What ADD and CHECK are told. */
async function readPodRequest(call: Call): Promise<AddRequest> {
  const { readAnnotations, readConfig } = await import("./schema.ts");
  const config = readConfig(call.configuration, call.network);
  const annotations = readAnnotations(call.configuration);
  const pod = readPod(call.variables.args);
  if (call.variables.verb === "ADD" && annotations === undefined && config.kubeconfig !== undefined)
    throw new RemoraError(
      code.unsupportedField,
      `kubeconfig: ${show(config.kubeconfig)}: the runtime passed no annotations, and asking the Kubernetes API for them is not supported yet; list "io.kubernetes.cri.pod-annotations": true in capabilities`,
    );
  const prevResult = readPrevResult(call.configuration.prevResult);
  return { ...attachmentOf(call, config), pod, annotations, prevResult };
}

function attachmentOf<Config>(call: Call, config: Config): { config: Config } & Omit<DelRequest, "config"> {
  const { containerId, netns, ifname } = call.variables;
  return { config, cniVersion: call.cniVersion, containerId, netns, ifname };
}

/** skel's rule for ADD and DEL, here before anything is touched. A DEL's namespace may be gone, or not be named. */
function refuseOwnNamespace({ raw, variables: { netns, netnsOverride } }: Call): void {
  if (!netnsOverride && netns !== "" && raw.isOwnNamespace(netns))
    throw new RemoraError(
      code.ownNamespace,
      `CNI_NETNS: ${show(netns)} is the network namespace that the plugin itself runs in`,
    );
}

function readObject(text: string): JsonObject {
  if (text.trim() === "")
    throw new RemoraError(code.decodingFailure, "stdin is empty, expected the network configuration as JSON");
  let value: unknown;
  try {
    value = parseForReading(text);
  } catch (error) {
    throw new RemoraError(
      code.decodingFailure,
      `stdin: the network configuration is not valid JSON: ${(error as Error).message}`,
      { cause: error },
    );
  }
  if (!isObject(value))
    throw new RemoraError(
      code.decodingFailure,
      `stdin: expected the network configuration, a JSON object, got ${show(value)}`,
    );
  return value;
}
