// SPDX-License-Identifier: Apache-2.0
/** `remora top`: what is attached on this node, live, with rates. */

import { requireBpffs } from "../chain/bpffs.ts";
import { listAttachments } from "../chain/status.ts";
import type { AttachmentStatus } from "../model.ts";
import { type Command, type Io, UsageError } from "./command.ts";
import { type Rated, rate, type Sample, short } from "./rates.ts";
import { ownerOf, select } from "./selector.ts";
import { type Column, type Row, table } from "./table.ts";
import { type Page, pageFor, printable } from "./terminal.ts";

/** What rows are sorted by, the most first; the key that a person presses, and the column that is marked. */
const orders = {
  packets: { key: "p", title: "packets/s", by: (row: Rated) => row.packetsPerSecond ?? 0 },
  bits: { key: "b", title: "bits/s", by: (row: Rated) => row.bitsPerSecond ?? 0 },
  drops: { key: "d", title: "drops/s", by: (row: Rated) => row.droppedPerSecond ?? 0 },
  dropped: { key: "D", title: "dropped", by: (row: Rated) => row.dropped + row.broken },
  total: { key: "t", title: "packets", by: (row: Rated) => row.packets },
  chain: { key: "c", title: "", by: () => 0 },
} as const;
export type Order = keyof typeof orders;

export const command: Command = {
  operands: "[POD or CONTAINER]",
  maxOperands: 1,
  options: {
    interval: { type: "string", value: "SECONDS", help: "between two pictures (default 1)" },
    count: { type: "string", value: "N", help: "end after N pictures" },
    sort: { type: "string", value: "KEY", help: `${Object.keys(orders).join(", ")} (default packets)` },
  },
  help: `
Shows every program of every chain on this node, or of one pod's, and how much it gets: packets and
bits per second, and what it drops. In a terminal the picture is renewed in place until q or Ctrl-C;
in a pipe each picture is a block of text.

  drops/s, dropped  packets that ended here with verdict SHOT; "broken" counts packets of a chain
                    that could not go on, which its failure policy then dropped or passed

Keys sort: p packets/s, b bits/s, d drops/s, D all dropped so far, t all packets so far, c the order
of the chains. The most comes first.

--json prints one object a line for each picture: {"time","seconds","programs":[{"containerId",
"pod","ifname","direction","position","program","at","packets","bytes","dropped","broken",
"packetsPerSecond","bitsPerSecond","droppedPerSecond"}]}; a rate is null until it is known.`,
  async run({ args, io, tools, json, bpffs }) {
    const interval = number(args.text("interval") ?? "1", "--interval", 0.05, 3600) * 1000;
    const most =
      args.text("count") === undefined ? Infinity : number(args.text("count") ?? "", "--count", 1, 1e9, true);
    let order = orderOf(args.text("sort") ?? "packets");
    const kernel = await tools.kernel();
    requireBpffs(kernel, bpffs);
    const [selector] = args.positionals;
    const chosen = (): AttachmentStatus[] => {
      const all = listAttachments(kernel, bpffs);
      return selector === undefined ? all : select(all, selector);
    };
    if (io.watch === undefined) throw new Error("top needs a clock");
    const drawing = io.isTerminal && !json;
    let before: Sample | undefined;
    let now: Sample;
    using watch = await io.watch();
    using screen = drawing ? openScreen(io) : undefined;
    now = { time: watch.now(), attachments: chosen() };
    for (let shown = 0; shown < most && !watch.stopped; ) {
      const { columns, rows: height } = watch.size();
      const page = pageFor({ ...io, columns: columns || io.columns });
      if (screen) screen.draw(lines(renderTop(rate(before, now), order, page), height));
      const due = now.time + interval;
      for (let left = due - watch.now(); left > 0; left = due - watch.now()) {
        const why = await watch.pause(left);
        if (why === "stopped") return 0;
        if (why === "elapsed") break;
        order = (Object.keys(orders) as Order[]).find((each) => orders[each].key === why.key) ?? order;
        screen?.draw(lines(renderTop(rate(before, now), order, page), height));
      }
      before = now;
      now = { time: watch.now(), attachments: chosen() };
      shown++;
      if (screen) continue;
      const rated = rate(before, now);
      if (json) io.stdout(`${JSON.stringify(picture(watch.date(), before, now, rated))}\n`);
      else io.stdout(`${renderTop(rated, order, page).join("\n")}\n\n`);
    }
    return 0;
  },
};

function number(text: string, option: string, least: number, most: number, whole = false): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!(value >= least && value <= most) || (whole && !Number.isInteger(value)))
    throw new UsageError(`${option} ${text}: give a ${whole ? "whole " : ""}number from ${least} to ${most}`);
  return value;
}

function orderOf(text: string): Order {
  if (Object.hasOwn(orders, text)) return text as Order;
  throw new UsageError(`--sort ${text}: give one of ${Object.keys(orders).join(", ")}`);
}

function picture(date: number, before: Sample, now: Sample, programs: Rated[]) {
  return {
    time: new Date(date).toISOString(),
    seconds: (now.time - before.time) / 1000,
    programs: programs.map((row) => ({
      ...row,
      packetsPerSecond: row.packetsPerSecond ?? null,
      bitsPerSecond: row.bitsPerSecond ?? null,
      droppedPerSecond: row.droppedPerSecond ?? null,
    })),
  };
}

// ---- the picture -------------------------------------------------------------------------------------------------

const columns: Column[] = [
  { title: "pod", fit: "middle" },
  { title: "if", fit: "middle" },
  { title: "" },
  { title: "program", fit: "middle" },
  { title: "at", optional: true },
  { title: "packets/s", align: "right" },
  { title: "bits/s", align: "right" },
  { title: "drops/s", align: "right" },
  { title: "packets", align: "right" },
  { title: "dropped", align: "right" },
  { title: "broken", align: "right", optional: true },
];

/** The picture as lines: a sum, and the programs in order. */
export function renderTop(rated: Rated[], order: Order, page: Page): string[] {
  if (rated.length === 0) return ["Nothing is attached on this node."];
  const { by, title } = orders[order];
  // A stable sort: equals stay in the order of their chains.
  const sorted = order === "chain" ? rated : [...rated].sort((a, b) => by(b) - by(a));
  const marked = columns.map((column) =>
    column.title === title && title !== "" ? { ...column, title: `>${title}` } : column,
  );
  // What the first program of each chain gets is what the chain gets.
  const heads = rated.filter(({ position }) => position === 0);
  const sum = (count: (row: Rated) => number | undefined, rows: Rated[]): string =>
    short(rows.reduce((total, row) => total + (count(row) ?? 0), 0));
  const pods = new Set(rated.map(({ containerId }) => containerId)).size;
  const summary =
    `${pods} ${pods === 1 ? "pod" : "pods"}, ${rated.length} ${rated.length === 1 ? "program" : "programs"}: ` +
    `${sum((row) => row.packetsPerSecond, heads)} packets/s, ${sum((row) => row.bitsPerSecond, heads)}bit/s, ` +
    `${sum((row) => row.droppedPerSecond, rated)} drops/s`;
  return [page.paint(summary, "strong"), ...table(page, marked, sorted.map(rowOf))];
}

function rowOf(row: Rated): Row {
  const rate = (value: number | undefined): string => (value === undefined ? "-" : short(value));
  const dropping = (row.droppedPerSecond ?? 0) > 0;
  return {
    cells: [
      printable(ownerOf(row)),
      row.ifname,
      row.direction === "ingress" ? "in" : "out",
      dropping ? { text: row.program, tone: "bad" } : row.program,
      row.at === "host" ? "host" : "",
      rate(row.packetsPerSecond),
      rate(row.bitsPerSecond),
      dropping ? { text: rate(row.droppedPerSecond), tone: "bad" } : rate(row.droppedPerSecond),
      short(row.packets),
      row.dropped > 0 ? { text: short(row.dropped), tone: "warn" } : "0",
      row.broken > 0 ? { text: short(row.broken), tone: "bad" } : "",
    ],
  };
}

/** What fits on the screen, which is cut with a word of how much is missing. */
function lines(all: string[], height: number): string[] {
  if (height < 3 || all.length <= height) return all;
  return [...all.slice(0, height - 1), `... and ${all.length - height + 1} more`];
}

interface Screen extends Disposable {
  draw(lines: string[]): void;
}

/**
 * The terminal's other screen, so that what was there comes back. A picture is written over the one before, each line up to
 * its end, in one piece and between the marks of a synchronised update: nothing is blank in between.
 */
function openScreen(io: Io): Screen {
  io.stdout("\x1b[?1049h\x1b[?25l");
  return {
    draw: (lines) =>
      io.stdout(`\x1b[?2026h\x1b[H${lines.map((line) => `${line}\x1b[K`).join("\r\n")}\x1b[J\x1b[?2026l`),
    [Symbol.dispose]: () => io.stdout("\x1b[?25h\x1b[?1049l"),
  };
}
