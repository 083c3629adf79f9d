// SPDX-License-Identifier: Apache-2.0
/** `remora status`: what is attached on this node. */

import { requireBpffs } from "../chain/bpffs.ts";
import { listAttachments } from "../chain/status.ts";
import { type Direction, directions } from "../kernel/port.ts";
import type { AttachmentStatus, StatusEntry } from "../model.ts";
import type { Command } from "./command.ts";
import { ownerOf, select } from "./selector.ts";
import { type Column, type Row, table } from "./table.ts";
import { type Page, pageFor, paragraph, printable, shortId, wrap } from "./terminal.ts";

export const command: Command = {
  operands: "[POD or CONTAINER]",
  maxOperands: 1,
  options: {},
  help: `
Shows every attachment on this node, or those of one pod: its interface, hook, generation, and per
direction the programs in the order in which packets meet them, with their counters. The pod is a
name, namespace/name, a container id, or the beginning of one that no other container shares.

  packets, bytes  what reached the program, since it joined the chain
  proceeded       packets that went on to the next program, or out of the chain at its end
  ended           packets that ended here, by verdict; "broken" counts packets of a chain that
                  could not go on, which its failure policy then dropped or passed

--json prints {"attachments":[{"containerId","netns","ifname","pod":{"namespace","name","uid"}|null,
"hook":"tcx"|"clsact","generation","degraded":[{"program","reason"}],"ingress":[E],"egress":[E]}]}
with E = {"program","at":"pod"|"host","version","sha256","priority","params":{},"packets","bytes",
"proceeded","ended":{"shot":N}}; and, only where packets meet programs of others before a chain,
"behind":[{"direction","at","programs":[TEXT]}].`,
  async run({ args, io, tools, json, bpffs }) {
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const all = listAttachments(kernel, bpffs).sort((a, b) => (ownerOf(a) < ownerOf(b) ? -1 : 1));
    const [selector] = args.positionals;
    const attachments = selector === undefined ? all : select(all, selector);
    io.stdout(json ? `${JSON.stringify({ attachments })}\n` : renderStatus(attachments, pageFor(io), bpffs));
    return 0;
  },
};

/** The page that a person reads. `bpffs` is named where there is nothing to show. */
export function renderStatus(attachments: AttachmentStatus[], page: Page, bpffs: string): string {
  if (attachments.length === 0) return `Nothing is attached on this node (looked in ${bpffs}).\n`;
  return attachments.map((each) => `${renderAttachment(each, page).join("\n")}\n`).join("\n");
}

function renderAttachment(attachment: AttachmentStatus, page: Page): string[] {
  const { containerId, netns, ifname, pod, hook, generation, degraded, behind = [] } = attachment;
  const owner = printable(ownerOf(attachment));
  const place = `${printable(ifname)}  ${hook}  generation ${generation}`;
  const facts = [
    ...(pod === null ? [] : [`container ${shortId(containerId)}`]),
    ...(netns === "" ? [] : [`netns ${netns}`]),
  ];
  const title =
    owner.length + 2 + place.length <= page.width
      ? [`${page.paint(owner, "strong")}  ${place}`]
      : [...wrap(owner, page.width).map((line) => page.paint(line, "strong")), `  ${place}`];
  return [
    ...title,
    ...(facts.length === 0 ? [] : paragraph(page, facts.join("  "), 2, "faint")),
    ...degraded.flatMap(({ program, reason }) => paragraph(page, `degraded: ${program}: ${reason}`, 2, "bad")),
    ...behind.flatMap(({ direction, at, programs }) =>
      paragraph(
        page,
        `behind ${programs.length === 1 ? "another program" : `${programs.length} other programs`} on \
${direction}${at === "host" ? " of the host's end" : ""}: ${programs.join(", ")}`,
        2,
        "warn",
      ),
    ),
    ...chains(attachment, page),
  ];
}

const columns: Column[] = [
  { title: "" },
  { title: "program", fit: "wrap" },
  { title: "at", optional: true },
  { title: "version", fit: "middle" },
  { title: "priority", align: "right" },
  { title: "packets", align: "right" },
  { title: "bytes", align: "right" },
  { title: "proceeded", align: "right" },
  { title: "ended", fit: "wrap", optional: true },
];

function chains(attachment: AttachmentStatus, page: Page): string[] {
  // What both directions of a program share is said once.
  const said = new Set<string>();
  const rows = directions.flatMap((direction) =>
    attachment[direction].map((entry, position) => {
      const params = paramsOf(entry);
      const known = `${entry.program} ${entry.priority} ${params}`;
      const row = rowOf(entry, position === 0 ? direction : "", said.has(known) ? "" : params);
      said.add(known);
      return row;
    }),
  );
  return rows.length === 0 ? ["  no programs"] : table(page, columns, rows, 2);
}

function paramsOf({ params }: StatusEntry): string {
  return Object.entries(params)
    .map(([name, value]) => `${name}=${/^[^\s"]+$/.test(String(value)) ? value : JSON.stringify(value)}`)
    .join(" ");
}

function rowOf(entry: StatusEntry, direction: Direction | "", params: string): Row {
  const ended = Object.entries(entry.ended).filter(([, packets]) => packets > 0);
  return {
    cells: [
      direction,
      entry.program,
      entry.at === "host" ? "host" : "",
      entry.version,
      entry.priority,
      entry.packets,
      entry.bytes,
      entry.proceeded,
      {
        text: ended.map(([verdict, packets]) => `${verdict} ${packets}`).join(", "),
        tone: ended.some(([verdict]) => verdict === "broken") ? "bad" : "plain",
      },
    ],
    below: params === "" ? [] : [params],
  };
}
