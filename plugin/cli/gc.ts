// SPDX-License-Identifier: Apache-2.0
/** `remora gc`: removes what belongs to no live container. */

import { requireBpffs } from "../chain/bpffs.ts";
import { type Collected, collect, defaultGraceSeconds } from "../chain/collect.ts";
import { reasonOf } from "./checks/check.ts";
import type { Command } from "./command.ts";
import { type Row, table } from "./table.ts";
import { type Page, pageFor, shortId } from "./terminal.ts";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {
    "dry-run": { type: "boolean", help: "only say what would be removed" },
  },
  help: `
Removes the attachments of every network whose interface or network namespace is gone, and what an
interrupted ADD left half made. What is attached to a live interface is never touched, and what is
not complete only once nothing was added to it for ${defaultGraceSeconds} seconds. Exit status 1 where something
could not be removed.

--json prints {"dryRun":BOOLEAN,"removed":[{"network","containerId","ifname","reason"}],
"failed":[{"network","containerId","ifname","reason"}]}.`,
  async run({ args, io, tools, json, bpffs }) {
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const dryRun = args.flag("dry-run");
    const { removed, failed } = viewOf(collect(kernel, bpffs, { dryRun }));
    const view = { dryRun, removed, failed };
    io.stdout(json ? `${JSON.stringify(view)}\n` : renderCollected(view, pageFor(io)));
    return failed.length === 0 ? 0 : 1;
  },
};

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
  failed: Line[];
}

function viewOf({ removed, failed }: Collected): Omit<CollectedView, "dryRun"> {
  const line = ({ network, containerId, ifname }: Omit<Line, "reason">, reason: string) => ({
    network,
    containerId,
    ifname,
    reason,
  });
  return {
    removed: removed.map((each) => line(each, each.reason)),
    failed: failed.map((each) => line(each, reasonOf(each.error))),
  };
}

/** The page that a person reads. */
export function renderCollected({ dryRun, removed, failed }: CollectedView, page: Page): string {
  if (removed.length === 0 && failed.length === 0) return "Nothing to remove: all that is attached is in use.\n";
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
    ...rows(failed, "failed", true),
  ]);
  return `${lines.join("\n")}\n`;
}
