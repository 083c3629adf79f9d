// SPDX-License-Identifier: Apache-2.0
/** For tests: a fake kernel with one pod on it, and programs to plan chains of. */

import { FakeKernel, type ObjectSketch } from "../kernel/fake.ts";
import { type Direction, directions } from "../kernel/port.ts";
import type { AttachmentId, CatalogProgram, Selected } from "../model.ts";
import { lockDeadlines } from "./lock.ts";
import { findHostEnd } from "./places.ts";
import type { PlanInput } from "./plan.ts";

export const bpffs = "/sys/fs/bpf/remora";
export const netns = "/run/netns/pod";
export const id: AttachmentId = { network: "podnet", containerId: "c0ffee.1", ifname: "eth0" };

/** Within one process nobody gives back what another waits for without giving way. */
lockDeadlines.release = 0;

export interface ProgramSketch extends ObjectSketch {
  /** The function of each direction; `handle` in both where nothing is said. */
  entry?: CatalogProgram["entry"];
  directions?: Direction[];
  change?: Partial<CatalogProgram>;
  select?: Partial<Selected>;
}

export function select(kernel: FakeKernel, name: string, sketch: ProgramSketch = {}): Selected {
  const entry = sketch.entry ?? { ingress: "handle", egress: "handle" };
  const functions = [...new Set(Object.values(entry))].map((each) => ({ name: each }));
  const object = kernel.object(name, { programs: functions, ...sketch });
  const info = quietly(kernel, () => kernel.inspectObject(object));
  return {
    program: {
      name,
      version: "1.0",
      description: "",
      path: `/etc/remora/programs/${name}.bpf.o`,
      object,
      info,
      sha256: info.sha256,
      entry,
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
      ...sketch.change,
    },
    priority: 500,
    directions: sketch.directions ?? directions.filter((direction) => entry[direction] !== undefined),
    at: "pod",
    parameters: [],
    shown: {},
    nodeWide: false,
    ...sketch.select,
  };
}

export function machine(): FakeKernel {
  const kernel = new FakeKernel();
  kernel.namespace(netns);
  return kernel;
}

export function input(kernel: FakeKernel, selected: Selected[], change: Partial<PlanInput> = {}): PlanInput {
  const device = quietly(kernel, () => kernel.findInterface(netns, id.ifname));
  const before = kernel.operations.length;
  const host = findHostEnd(kernel, { netns, ifname: id.ifname, selected });
  kernel.operations.length = before;
  return {
    id,
    netns,
    interface: device,
    host,
    pod: { namespace: "default", name: "web", uid: "u1" },
    config: { bpffs, failurePolicy: "closed", hook: "auto", programDirs: ["/etc/remora/programs"] },
    selected,
    missing: [],
    ...change,
  };
}

/** What was thrown; undefined where nothing was. */
export function caught(act: () => void): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** Without leaving a trace among the kernel's operations. */
function quietly<T>(kernel: FakeKernel, look: () => T): T {
  const found = look();
  kernel.operations.pop();
  return found;
}
