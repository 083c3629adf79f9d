// SPDX-License-Identifier: Apache-2.0
/** `remora apply`: gives a running pod another chain, without loss. */

import { type Changed, change } from "../chain/change.ts";
import type { Change } from "../chain/changes.ts";
import { findHostEnd } from "../chain/places.ts";
import { plan } from "../chain/plan.ts";
import { selectionsOf } from "../chain/record.ts";
import { messageOf } from "../chain/undo.ts";
import type { NodeConfig } from "../model.ts";
import { assignedNow } from "../select/assigned.ts";
import { choose, givenDirs, programHelp, programOptions, readWishes } from "./chosen.ts";
import { type Command, UsageError } from "./command.ts";
import { recordToChange } from "./records.ts";
import { ownerOf } from "./selector.ts";
import { type Column, type Row, table } from "./table.ts";
import { type Page, pageFor, printable } from "./terminal.ts";

export const command: Command = {
  operands: "POD or CONTAINER",
  maxOperands: 1,
  options: {
    ...programOptions,
    ifname: { type: "string", value: "NAME", help: "the interface, where the pod has several chains" },
    "without-node-chain": { type: "boolean", help: "take the node's own entries away too" },
    "dry-run": { type: "boolean", help: "only say what would change" },
  },
  help: `
Gives a running pod another chain in one step: each packet meets the whole old chain or the whole
new one. Programs that stay keep their maps, as far as these are defined alike, and their counters.
If anything of the new chain fails, the old one stays. A chain that is as asked for is not touched.
The pod is a name, namespace/name, a container id, or at least 4 characters of its beginning.

${programHelp}
The entries of the node's configuration stay as they are and need not be listed. Programs are looked
up anew, in the directories given with --dir, else in those of the pod's ADD: so a program whose
file was replaced gets its new version.

--json prints {"network","containerId","ifname","dryRun","changed","generation","changes":[C]} with
C = {"direction","at","program","change":"added"|"removed"|"moved"|"changed","from"|null,"to"|null,
"details":[TEXT]}; from and to are positions, the first is 0.`,
  async run({ args, io, tools, json, bpffs }) {
    const [pod] = args.positionals;
    if (pod === undefined) throw new UsageError("whose chain? Give a pod: remora apply POD --programs LIST");
    const wishes = readWishes(args);
    const kernel = await tools.kernel();
    const { record: chosen, status } = recordToChange(kernel, bpffs, pod, args.text("ifname"));
    const dryRun = args.flag("dry-run");
    const result = await change(
      kernel,
      bpffs,
      chosen.id,
      async (record, device) => {
        const dirs = givenDirs(args);
        const programDirs = dirs.length > 0 ? dirs : record.programDirs;
        const chain = args.flag("without-node-chain") ? [] : nodeChainOf(record);
        const { netns, id } = record;
        const assigned = record.assigned ?? assignedNow(kernel, { netns, ifname: id.ifname }, device);
        const selected = await choose(kernel, programDirs, wishes, { chain, pod: record.pod, assigned });
        return plan({
          id: record.id,
          netns: record.netns,
          interface: device,
          host: findHostEnd(kernel, { netns: record.netns, ifname: record.id.ifname, selected }),
          assigned,
          pod: record.pod,
          config: { bpffs, failurePolicy: record.failurePolicy, hook: record.hook, programDirs },
          selected,
          // What the node asked for and could not be had is still not there.
          missing: args.flag("without-node-chain") ? [] : record.degraded.filter(({ nodeWide }) => nodeWide),
          generation: record.generation + 1,
        });
      },
      { dryRun, report: (error) => io.stderr(`remora apply: ${printable(messageOf(error))}\n`) },
    );
    const view = viewOf(result, dryRun);
    io.stdout(json ? `${JSON.stringify(view)}\n` : renderApplied(view, ownerOf(status), result, pageFor(io)));
    return 0;
  },
};

/** What the node's configuration asked for at the pod's ADD, to be asked for again. */
function nodeChainOf(record: Parameters<typeof selectionsOf>[0]): NodeConfig["chain"] {
  return selectionsOf(record)
    .filter(({ nodeWide }) => nodeWide)
    .map(({ program, params, priority, directions, at }) => ({ program, params, priority, directions, at }));
}

/** What `--json` prints. */
interface AppliedView {
  network: string;
  containerId: string;
  ifname: string;
  dryRun: boolean;
  changed: boolean;
  generation: number;
  changes: Change[];
}

function viewOf({ before, after, changes }: Changed, dryRun: boolean): AppliedView {
  return {
    ...before.id,
    dryRun,
    changed: after !== undefined,
    generation: (after ?? before).generation,
    changes,
  };
}

function renderApplied(view: AppliedView, owner: string, { before, after, settled }: Changed, page: Page): string {
  const lines = settled === undefined ? [] : [`Before this, ${settled}.`];
  const where = `${printable(owner)} ${printable(view.ifname)}`;
  if (view.changes.length > 0) lines.push(...table(page, columns, view.changes.map(rowOf)), "");
  if (after) lines.push(`${where}: generation ${before.generation} -> ${after.generation}, without loss.`);
  else if (view.changes.length === 0)
    lines.push(`${where}: nothing to change, generation ${before.generation} is as asked for.`);
  else lines.push(`${where}: nothing was changed (--dry-run).`);
  return `${lines.join("\n")}\n`;
}

const columns: Column[] = [
  { title: "" },
  { title: "direction" },
  { title: "program", fit: "wrap" },
  { title: "position" },
];

function rowOf({ direction, at, program, change: what, from, to, details }: Change): Row {
  const position = from === null ? `${to}` : to === null || from === to ? `${from}` : `${from} -> ${to}`;
  const tone = { added: "good", removed: "bad", moved: "plain", changed: "warn" } as const;
  return {
    cells: [{ text: what, tone: tone[what] }, at === "host" ? `${direction} (host)` : direction, program, position],
    below: details.length > 0 ? [details.join(", ")] : [],
  };
}
