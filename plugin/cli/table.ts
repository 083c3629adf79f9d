// SPDX-License-Identifier: Apache-2.0
/** A table of plain text: columns two spaces apart, no lines drawn, within the width of the page. */

import { elide, type Page, printable, type Tone, wrap } from "./terminal.ts";

export interface Column {
  title: string;
  align?: "left" | "right";
  /** What happens to a text when the table is too wide; a column without it is never shortened. */
  fit?: "wrap" | "middle";
  /** Leave the column out where no row says anything in it. */
  optional?: boolean;
}
export type Cell = string | number | { text: string; tone: Tone };
export interface Row {
  cells: Cell[];
  /** Remarks below the row, from its second column on. */
  below?: string[];
}

const gap = 2;
/** No column becomes narrower than this. */
const narrowest = 9;

/** Lays out the rows, the titles first. Numbers are right aligned. Each line is without trailing spaces. */
export function table(page: Page, columns: Column[], rows: Row[], indent = 0): string[] {
  const kept = columns.flatMap((column, index) =>
    column.optional && rows.every(({ cells }) => textOf(cells[index]) === "") ? [] : [{ column, index }],
  );
  const widths = kept.map(({ column, index }) =>
    Math.max(column.title.length, ...rows.map(({ cells }) => textOf(cells[index]).length)),
  );
  shrink(
    widths,
    kept.map(({ column }) => column),
    page.width - indent,
  );

  const lines: string[] = [];
  const put = (cells: Cell[]) => {
    const blocks = cells.map((cell, at) => fitted(textOf(cell), widths[at] ?? 0, kept[at]?.column.fit));
    const height = Math.max(...blocks.map((block) => block.length));
    for (let line = 0; line < height; line++) {
      const parts = cells.map((cell, at) => {
        const text = blocks[at]?.[line] ?? "";
        const padding = " ".repeat(Math.max(0, (widths[at] ?? 0) - text.length));
        const painted = page.paint(text, toneOf(cell));
        return kept[at]?.column.align === "right" ? padding + painted : painted + padding;
      });
      lines.push((" ".repeat(indent) + parts.join(" ".repeat(gap))).trimEnd());
    }
  };
  put(kept.map(({ column }) => ({ text: column.title, tone: "faint" })));
  const second = indent + (widths[0] ?? 0) + gap;
  for (const row of rows) {
    put(kept.map(({ index }) => row.cells[index] ?? ""));
    for (const remark of row.below ?? []) {
      for (const line of wrap(printable(remark), Math.max(page.width - second - 2, narrowest))) {
        lines.push(" ".repeat(second + 2) + page.paint(line, "faint"));
      }
    }
  }
  return lines;
}

/** Takes columns away from the widest one that may be shortened, until all fit or none can give more. */
function shrink(widths: number[], columns: Column[], available: number): void {
  let excess = widths.reduce((sum, width) => sum + width, gap * (widths.length - 1)) - available;
  for (; excess > 0; excess--) {
    let widest = -1;
    for (const [at, width] of widths.entries()) {
      if (columns[at]?.fit !== undefined && width > narrowest && width > (widths[widest] ?? 0)) widest = at;
    }
    if (widest < 0) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}

function fitted(text: string, width: number, fit: Column["fit"]): string[] {
  if (fit === "wrap") return wrap(text, width);
  return [fit === "middle" ? elide(text, width) : text];
}

function textOf(cell: Cell | undefined): string {
  if (cell === undefined) return "";
  return printable(typeof cell === "object" ? cell.text : String(cell));
}

function toneOf(cell: Cell): Tone {
  return typeof cell === "object" ? cell.tone : "plain";
}
