// SPDX-License-Identifier: Apache-2.0
/** A catalog in memory for the tests of selection. */

import type { Catalog } from "../catalog/catalog.ts";
import { code, RemoraError } from "../errors.ts";
import type { BtfType } from "../kernel/port.ts";
import type { CatalogProgram, NodeConfig, PodIdentity } from "../model.ts";

export const pod: PodIdentity = { namespace: "shop", name: "web", uid: "1" };
export const config: Pick<NodeConfig, "chain" | "allow" | "failurePolicy"> = {
  chain: [],
  allow: { "*": ["*"] },
  failurePolicy: "closed",
};

const u64: BtfType = { kind: "int", name: "unsigned long long", size: 8, signed: false, encoding: "int" };

/** A program with parameters `rate` (a bit rate, 8kbit and up) and `burst` (a plain u64). */
export function program(name: string, changes: Partial<CatalogProgram> = {}): CatalogProgram {
  return {
    name,
    version: "1",
    description: "",
    path: `/programs/${name}.bpf.o`,
    object: Buffer.alloc(0),
    info: {
      programs: [],
      maps: [],
      parameters: [
        { name: "rate", type: u64, initial: Buffer.alloc(8), tags: ["remora:unit=bitrate", "remora:min=8kbit"] },
        { name: "burst", type: u64, initial: Buffer.alloc(8), tags: [] },
      ],
      license: "GPL",
      sha256: "0".repeat(64),
      btf: true,
    },
    sha256: "0".repeat(64),
    entry: { ingress: "f", egress: "f" },
    priority: 500,
    proceedOn: [-1, 0, 3],
    mapScopes: {},
    mapConditions: {},
    endingMaps: [],
    params: {},
    failurePolicy: undefined,
    namespaces: undefined,
    at: "pod",
    nodeWide: true,
    ...changes,
  };
}

export function catalogOf(...programs: CatalogProgram[]): Pick<Catalog, "get"> {
  return {
    get(name) {
      const found = programs.find((candidate) => candidate.name === name);
      if (found === undefined) throw new RemoraError(code.unknownProgram, `this node has no program "${name}"`);
      return found;
    },
  };
}
