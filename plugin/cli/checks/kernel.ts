// SPDX-License-Identifier: Apache-2.0
/**
 * What the kernel really does: loads a stage of a chain as an ADD would, and attaches it to this namespace's own
 * loopback for a moment. The program returns TCX_NEXT, so that no packet notices.
 */

import { counterLayout, KernelError, type KernelPort, type Stage } from "../../kernel/port.ts";
import type { NodeConfig } from "../../model.ts";
import { type Check, reasonOf } from "./check.ts";
import { isAtLeast } from "./machine.ts";
import { probeFunction, probeObject } from "./object.ts";

const ownNamespace = "/proc/self/ns/net";

/**
 * Loads and attaches; leaves nothing behind. No hook is tried where no program could be loaded.
 * @param hook of the node's configuration.
 */
export function checkKernel(
  kernel: KernelPort,
  release: string | undefined,
  hook: NodeConfig["hook"] = "auto",
): Check[] {
  const open: number[] = [];
  try {
    let stage: Stage;
    try {
      stage = loadProbe(kernel, open);
    } catch (error) {
      return [{ check: "BPF", state: "missing", found: reasonOf(error), remedy: loadRemedy(error) }];
    }
    const loads: Check = { check: "BPF", state: "ok", found: "a chain's program was loaded" };
    if (hook === "clsact") return [loads, checkClsact(kernel, stage)];
    const tcx = checkTcx(kernel, stage, open, release);
    if (hook === "tcx" || tcx.state === "ok") return [loads, tcx];
    return [loads, { ...tcx, state: "note", found: `${tcx.found}; ${weaker}` }, checkClsact(kernel, stage)];
  } finally {
    for (const fd of open.reverse()) kernel.close(fd);
  }
}

/** The first of two positions: that one goes on by a tail call, as all but the last do. */
function loadProbe(kernel: KernelPort, open: number[]): Stage {
  const chain = kernel.createMap({ type: "prog_array", name: "probe_chain", keySize: 4, valueSize: 4, maxEntries: 2 });
  open.push(chain);
  const counters = kernel.createMap({
    type: "percpu_array",
    name: "probe_counters",
    keySize: 4,
    valueSize: counterLayout.words * 8,
    maxEntries: 2,
  });
  open.push(counters);
  const stage = kernel.loadStage({
    object: probeObject(),
    name: "probe",
    entries: [{ function: probeFunction, parameters: [] }],
    position: 0,
    length: 2,
    // The next position is empty, so the program's own -1 ends the chain.
    proceedOn: [0],
    failurePolicy: "open",
    chain,
    counters,
    countHead: true,
    reuse: [],
  });
  open.push(stage.program, ...stage.maps.map(({ fd }) => fd));
  return stage;
}

function loadRemedy(error: unknown): string {
  const errno = error instanceof KernelError ? error.code : "";
  if (errno === "ENOSYS") return "a kernel built with CONFIG_BPF_SYSCALL=y";
  if (errno === "EPERM" || errno === "EACCES") {
    return "run it as root, outside of containers without CAP_SYS_ADMIN; a locked-down kernel may forbid BPF too";
  }
  return "a kernel with CONFIG_BPF_SYSCALL=y, CONFIG_BPF_JIT=y and CONFIG_NET_CLS_ACT=y; the reason is the kernel's";
}

function checkTcx(kernel: KernelPort, stage: Stage, open: number[], release: string | undefined): Check {
  const check = "TCX";
  try {
    const { ifindex } = kernel.findInterface(ownNamespace, "lo");
    open.push(kernel.attachTcx({ program: stage.program, netns: ownNamespace, ifindex, direction: "ingress" }));
    return { check, state: "ok", found: "a program was attached to lo, and taken away" };
  } catch (error) {
    return {
      check,
      state: "missing",
      found: reasonOf(error),
      remedy: isAtLeast(release, 6, 6)
        ? "a kernel built with CONFIG_NET_XGRESS=y (CONFIG_NET_CLS_ACT selects it)"
        : "Linux 6.6 or later",
    };
  }
}

/** What `hook: auto` takes where there is no TCX. */
function checkClsact(kernel: KernelPort, { program }: Stage): Check {
  const check = "clsact";
  try {
    const { ifindex } = kernel.findInterface(ownNamespace, "lo");
    const place = { netns: ownNamespace, ifindex, direction: "ingress" } as const;
    const { madeQdisc, ...filter } = kernel.attachFilter({ ...place, program });
    try {
      kernel.detachFilter(place, filter);
    } finally {
      if (madeQdisc) kernel.removeQdisc(place);
    }
    return { check, state: "ok", found: "a filter was added to lo, and taken away" };
  } catch (error) {
    const remedy = "a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modules sch_ingress and cls_bpf)";
    return { check, state: "missing", found: reasonOf(error), remedy };
  }
}

/** Without TCX a pod can have its chain all the same, unless the configuration insists. */
const weaker =
  "chains hang on clsact instead, where a process of the pod with CAP_NET_ADMIN can remove them, and at: host is refused";
