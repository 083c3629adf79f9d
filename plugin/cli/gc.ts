// SPDX-License-Identifier: Apache-2.0
/** `remora gc`: removes what belongs to no live container. */

import { requireBpffs } from "../chain/bpffs.ts";
import { type Collected, collect, defaultGraceSeconds } from "../chain/collect.ts";
import { listNodeMaps } from "../chain/node-maps.ts";
import type { KernelPort } from "../kernel/port.ts";
import { reasonOf } from "./checks/check.ts";
import type { Command } from "./command.ts";
import { type Row, table } from "./table.ts";
import { type Page, pageFor, paragraph, shortId } from "./terminal.ts";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {
    "dry-run": { type: "boolean", help: "only say what would be removed" },
  },
  help: `
Removes the attachments of every network whose interface or network namespace is gone, and what an
interrupted ADD left before it attached anything, once nothing was added to it for ${defaultGraceSeconds} seconds.
What is attached to a live interface stays; where an ADD or a change of its chain was interrupted,
that is finished or taken back, and a DEL that was interrupted is finished. What somebody is at work
on is left alone. Exit status 1 where something could not be done.

Maps that pods share go when no pod uses them; those that were filled by hand (remora maps --node)
stay, and are named.

--json prints {"dryRun":BOOLEAN,"removed":[L],"settled":[L],"failed":[L],"kept":[{"program","map"}]}
with L = {"network","containerId","ifname","reason"}; "kept" are shared maps that no pod uses.`,
  async run({ args, io, tools, json, bpffs }) {
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const dryRun = args.flag("dry-run");
    const view = { dryRun, ...viewOf(collect(kernel, bpffs, { dryRun })) };
    const { failed } = view;
    const kept = keptMaps(kernel, bpffs);
    io.stdout(
      json
        ? `${JSON.stringify({ ...view, kept })}\n`
        : renderCollected(view, pageFor(io)) + renderKept(kept, pageFor(io)),
    );
    return failed.length === 0 ? 0 : 1;
  },
};

/** Maps that nobody uses and an administrator keeps. */
function keptMaps(kernel: KernelPort, bpffs: string): { program: string; map: string }[] {
  return listNodeMaps(kernel, bpffs)
    .filter(({ kept, attachments }) => kept && attachments === 0)
    .map(({ program, map }) => ({ program, map }));
}

function renderKept(kept: { program: string; map: string }[], page: Page): string {
  const lines = kept.flatMap(({ program, map }) =>
    paragraph(
      page,
      `Kept, although no pod uses it: ${program} ${map}, filled by hand. remora maps --node ${program} ${map} --release lets it go.`,
      0,
    ),
  );
  return lines.map((line) => `${line}\n`).join("");
}

interface Line {
  network: string;
  containerId: string;
  ifname: string;
  reason: string;
}
/** What `--json` prints. */
export interface CollectedView {
  dryRun: boolean;
  removed: Line[];
  /** Attachments that stay, of which an interrupted change was finished or taken back. */
  settled: Line[];
  failed: Line[];
}

function viewOf({ removed, settled, failed }: Collected): Omit<CollectedView, "dryRun"> {
  const line = ({ network, containerId, ifname }: Omit<Line, "reason">, reason: string) => ({
    network,
    containerId,
    ifname,
    reason,
  });
  return {
    removed: removed.map((each) => line(each, each.reason)),
    settled: settled.map((each) => line(each, each.what)),
    failed: failed.map((each) => line(each, reasonOf(each.error))),
  };
}

/** The page that a person reads. */
export function renderCollected({ dryRun, removed, settled, failed }: CollectedView, page: Page): string {
  if (removed.length === 0 && settled.length === 0 && failed.length === 0)
    return "Nothing to remove: all that is attached is in use.\n";
  const rows = (lines: Line[], done: string, bad: boolean): Row[] =>
    lines.map(({ network, containerId, ifname, reason }) => ({
      cells: [{ text: done, tone: bad ? "bad" : "plain" }, shortId(containerId), ifname, network, reason],
    }));
  const columns = [
    { title: "" },
    { title: "container" },
    { title: "interface" },
    { title: "network", fit: "middle" as const },
    { title: "reason", fit: "wrap" as const },
  ];
  const lines = table(page, columns, [
    ...rows(removed, dryRun ? "would remove" : "removed", false),
    ...rows(settled, dryRun ? "would settle" : "settled", false),
    ...rows(failed, "failed", true),
  ]);
  return `${lines.join("\n")}\n`;
}
