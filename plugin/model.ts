// SPDX-License-Identifier: Apache-2.0
/** The nouns that the modules share. No behaviour here, and no import but the kernel port's nouns. */

import type { Direction, ObjectInfo } from "./kernel/port.ts";

export type Place = "pod" | "host";
export type FailurePolicy = "closed" | "open";

/** A parameter as a person writes it: in an annotation always a string, in JSON also a number or boolean. */
export type ParameterText = string | number | boolean;

/** One wish for a program: from the node's `chain`, an annotation or the command line. Nothing is checked against the program yet. */
export interface Wish {
  program: string;
  params: Record<string, ParameterText>;
  priority?: number;
  directions?: Direction[];
  at?: Place;
  /** Who asked, for error messages: `chain[0]`, `annotation remora.io/programs`, ... */
  source: string;
  /** Where each parameter was written, by name, where that is not `source`: `annotation rate-limit.remora.io/rate`. */
  paramSources: Record<string, string>;
  nodeWide: boolean;
}

export interface PodIdentity {
  namespace: string;
  name: string;
  uid: string;
}

/** A program of the catalog: one object and its manifest, read and checked. */
export interface CatalogProgram {
  name: string;
  /** The manifest's version, else the first 12 digits of the sha256. */
  version: string;
  description: string;
  path: string;
  object: Buffer;
  info: ObjectInfo;
  sha256: string;
  /** The function of each direction it offers. The same function in both: each direction has its own maps. */
  entry: Partial<Record<Direction, string>>;
  priority: number;
  /** TC_ACT_* numbers. */
  proceedOn: number[];
  /** By map name; what is not named is `pod`. */
  mapScopes: Record<string, "pod" | "node">;
  /** Maps that the program only uses where a parameter, named here, is not 0. */
  mapConditions: Record<string, string>;
  /** Maps in which the stages behind the program tell how a packet ended (see `StageRequest.endings`). */
  endingMaps: string[];
  params: Record<string, ParameterText>;
  failurePolicy: FailurePolicy | undefined;
  /** Namespace globs, or undefined for all. */
  namespaces: string[] | undefined;
  at: Place;
  /** Whether the node's own chain may name it. */
  nodeWide: boolean;
}

/** A wish that was checked against its program: ready to be planned. */
export interface Selected {
  program: CatalogProgram;
  priority: number;
  directions: Direction[];
  at: Place;
  /** Encoded for `.rodata`; only what somebody set (manifest, node, annotation), defaults stay in the object. */
  parameters: { name: string; bytes: Buffer }[];
  /** The same as a person reads it: numbers and booleans plain, everything with a unit as canonical text. */
  shown: Record<string, ParameterText>;
  nodeWide: boolean;
}

/** What could not be had under failurePolicy `open`: the program and the reason. */
export interface Missing {
  program: string;
  reason: string;
  /** Only where the node asked for it: it stays missing when the pod is given another chain. */
  nodeWide?: true;
}

/** What the pod's interface was given by those who made it: whose traffic is the pod's own. */
export interface Assigned {
  /** Addresses of both families, without prefix lengths. */
  addresses: string[];
  /** Lower case; empty where the device has no Ethernet header. */
  mac: string;
  mtu: number;
}

/** Names one attachment: CNI identifies it by network, container and interface. */
export interface AttachmentId {
  network: string;
  containerId: string;
  ifname: string;
}

/** What a chain hangs on: a TCX link, or, on kernels before Linux 6.6, a filter on the clsact qdisc. */
export type HookName = "tcx" | "clsact";

/** One line of a chain as `status --json` prints it. */
export interface StatusEntry {
  program: string;
  at: Place;
  version: string;
  sha256: string;
  priority: number;
  params: Record<string, ParameterText>;
  packets: number;
  bytes: number;
  proceeded: number;
  ended: Record<string, number>;
}
export interface AttachmentStatus {
  containerId: string;
  netns: string;
  ifname: string;
  pod: PodIdentity | null;
  hook: HookName;
  generation: number;
  degraded: Missing[];
  ingress: StatusEntry[];
  egress: StatusEntry[];
  /** Only where packets meet programs of others before a chain. */
  behind?: Behind[];
}
/** Programs of others before a chain on its hook, in order, as `name (id N)`. */
export interface Behind {
  direction: Direction;
  at: Place;
  programs: string[];
}

/** Remora's own part of the network configuration, defaults filled in (`interface.md` names each field). */
export interface NodeConfig {
  /** The network's name, from the CNI envelope. */
  network: string;
  programDirs: string[];
  chain: {
    program: string;
    params?: Record<string, ParameterText>;
    priority?: number;
    directions?: Direction[];
    at?: Place;
  }[];
  allow: Record<string, string[]>;
  failurePolicy: FailurePolicy;
  hook: "auto" | "tcx" | "clsact";
  bpffs: string;
  kubeconfig?: string;
  agent: { socket: string };
  log: { level: string; file?: string };
}
