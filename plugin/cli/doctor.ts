// SPDX-License-Identifier: Apache-2.0
/** `remora doctor`: what this machine can do and what is missing, each with the remedy. */

import { existsSync, readFileSync } from "node:fs";
import { machine } from "node:os";
import { join, resolve } from "node:path";
import type { KernelPort } from "../kernel/port.ts";
import { checkChain } from "./checks/chain.ts";
import { type Check, reasonOf } from "./checks/check.ts";
import { checkKernel } from "./checks/kernel.ts";
import { checkLists } from "./checks/lists.ts";
import { checkBpffs, checkBtf, checkCapabilities, checkJit, checkMemlock, checkRelease } from "./checks/machine.ts";
import { checkConfiguration, checkLauncher } from "./checks/node.ts";
import { checkOrder } from "./checks/order.ts";
import { checkPrograms } from "./checks/programs.ts";
import type { Command, Tools } from "./command.ts";
import { defaultProgramDir } from "./directories.ts";
import { type Row, table } from "./table.ts";
import { type Page, pageFor, type Tone } from "./terminal.ts";

const defaultConfigurationFolder = "/etc/cni/net.d";
const defaultExecutableFolder = "/opt/cni/bin";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {
    dir: { type: "string", multiple: true, value: "DIR", help: `a program directory (default ${defaultProgramDir})` },
    "cni-conf": { type: "string", value: "DIR", help: `the CNI configuration (default ${defaultConfigurationFolder})` },
    "cni-bin": { type: "string", value: "DIR", help: `the CNI executables (default ${defaultExecutableFolder})` },
  },
  help: `
Tries what an ADD needs and looks at what stands on this node: the kernel and its BPF, capabilities,
bpffs, the program directories, the CNI configuration and the executable. What is "missing" makes
the ADD of a pod fail, and the exit status 1; a "note" is worth knowing. Each comes with its remedy.
The program directories and the bpffs are those of the configuration where it lists remora; that
entry is read, and the node's chain selected, as an ADD does.

To try TCX, or clsact where the kernel has no TCX, a program that does nothing is attached to lo of
this network namespace for a moment.

--json prints {"ok":BOOLEAN,"checks":[{"check","state":"ok"|"missing"|"note","found","remedy"}]};
"remedy" is left out where nothing is to be done.`,
  async run({ args, io, tools, json, bpffs }) {
    const programDirs = args.texts("dir").map((path) => resolve(path));
    const checks = await examine(tools, {
      bpffs: args.text("bpffs"),
      defaultBpffs: bpffs,
      ...(programDirs.length > 0 && { programDirs }),
      configuration: args.text("cni-conf") ?? defaultConfigurationFolder,
      executables: args.text("cni-bin") ?? defaultExecutableFolder,
    });
    const ok = checks.every(({ state }) => state !== "missing");
    io.stdout(json ? `${JSON.stringify({ ok, checks })}\n` : renderChecks(checks, pageFor(io)));
    return ok ? 0 : 1;
  },
};

interface Places {
  /** What the command line says; undefined where it says nothing. */
  bpffs: string | undefined;
  defaultBpffs: string;
  programDirs?: string[];
  configuration: string;
  executables: string;
}

async function examine(tools: Tools, places: Places): Promise<Check[]> {
  const text = (path: string) => readText(join(tools.root, path));
  const release = text("/proc/sys/kernel/osrelease");
  const { checks: configuration, entry, config } = checkConfiguration(tools.root, places.configuration);
  const memlock = checkMemlock(release, text("/proc/self/limits"));
  const bpffs = places.bpffs ?? entry?.bpffs ?? places.defaultBpffs;
  return [
    checkRelease(release, machine()),
    checkCapabilities(text("/proc/self/status")),
    checkJit(text("/proc/sys/net/core/bpf_jit_enable")),
    checkBtf(existsSync(join(tools.root, "/sys/kernel/btf/vmlinux"))),
    ...(memlock === undefined ? [] : [memlock]),
    ...(await withKernel(tools, async (kernel) => [
      ...checkKernel(kernel, release, entry?.hook),
      checkBpffs(bpffs, kernel),
      ...checkLists(kernel, bpffs),
      ...(await checkPrograms(places.programDirs ?? entry?.programDirs ?? [defaultProgramDir], kernel)),
      ...(config === undefined ? [] : await checkChain(config, kernel)),
      ...checkOrder(kernel, places.bpffs ?? entry?.bpffs ?? places.defaultBpffs),
    ])),
    ...configuration,
    checkLauncher(tools.root, places.executables, entry !== undefined),
  ];
}

/** Without the addon there is nothing to try; what the files say is still worth saying. */
async function withKernel(tools: Tools, act: (kernel: KernelPort) => Promise<Check[]>): Promise<Check[]> {
  let kernel: KernelPort;
  try {
    kernel = await tools.kernel();
  } catch (error) {
    return [{ check: "native addon", state: "missing", found: reasonOf(error), remedy: "install Remora anew" }];
  }
  return act(kernel);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

const tones: Record<Check["state"], Tone> = { ok: "good", missing: "bad", note: "warn" };

/** The page that a person reads. */
export function renderChecks(checks: Check[], page: Page): string {
  const rows = checks.map(({ check, state, found, remedy }): Row => {
    const cells = [{ text: state, tone: tones[state] }, check, found];
    return remedy === undefined ? { cells } : { cells, below: [`remedy: ${remedy}`] };
  });
  const missing = checks.filter(({ state }) => state === "missing").length;
  const verdict =
    missing === 0
      ? "Pods of this node can have chains."
      : `${missing === 1 ? "One thing is" : `${missing} things are`} missing; until then pods cannot have chains.`;
  const columns = [{ title: "" }, { title: "" }, { title: "", fit: "wrap" as const }];
  return `${[...table(page, columns, rows).slice(1), "", verdict].join("\n")}\n`;
}
