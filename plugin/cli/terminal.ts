// SPDX-License-Identifier: Apache-2.0
/** How wide a page is, which colours it may use, and what text may stand on it. */

import type { Io } from "./command.ts";

export type Tone = "plain" | "strong" | "faint" | "good" | "warn" | "bad";

export interface Page {
  /** Columns that a line may take. */
  width: number;
  /** Colours a text, where colours are welcome. The text is already printable. */
  paint(text: string, tone: Tone): string;
}

const sgr: Record<Exclude<Tone, "plain">, string> = { strong: "1", faint: "2", good: "32", warn: "33", bad: "31" };

/** Colours only on a terminal, and not where NO_COLOR is set (https://no-color.org: set and not empty). */
export function pageFor(io: Io): Page {
  const colours = io.isTerminal && !io.env?.NO_COLOR && io.env?.TERM !== "dumb";
  return {
    // A file or a pipe has no width: 100 columns, which is also what a person reads well.
    width: io.isTerminal && io.columns > 0 ? Math.max(io.columns, narrowest) : 100,
    paint: (text, tone) => (colours && tone !== "plain" && text !== "" ? `\x1b[${sgr[tone]}m${text}\x1b[0m` : text),
  };
}

/**
 * Text that may stand in a terminal. Parameters are written by whoever writes a pod's annotations, and a terminal
 * obeys control characters (and hides text behind format characters), so these are spelled out.
 */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) => {
    const point = character.codePointAt(0) ?? 0;
    return point < 0x100 ? `\\x${point.toString(16).padStart(2, "0")}` : `\\u{${point.toString(16)}}`;
  });
}

/** A container id as people know it: its first 12 characters. */
export function shortId(id: string): string {
  return id.length > 16 ? id.slice(0, 12) : id;
}

/** No page is narrower than this, however narrow the terminal is: lines of it can still be read. */
const narrowest = 40;

/** Breaks a text into lines at spaces; a word that is longer than a line is cut. */
export function wrap(text: string, available: number): string[] {
  const width = Math.max(available, 1);
  const lines: string[] = [];
  let line = "";
  for (let word of text.split(" ")) {
    const joined = line === "" ? word : `${line} ${word}`;
    if (joined.length <= width) {
      line = joined;
      continue;
    }
    if (line !== "") lines.push(line);
    for (; word.length > width; word = word.slice(width)) lines.push(word.slice(0, width));
    line = word;
  }
  return [...lines, line];
}

/** Takes the middle out of a text that is too long: both ends of a path or an id tell more than its middle. */
export function elide(text: string, width: number): string {
  if (text.length <= width) return text;
  const kept = width - 3;
  const head = Math.ceil(kept / 2);
  return `${text.slice(0, head)}...${text.slice(text.length - (kept - head))}`;
}

/** A paragraph below `indent` columns: wrapped, and continued two columns further in. */
export function paragraph(page: Page, text: string, indent: number, tone: Tone = "plain"): string[] {
  return wrap(printable(text), page.width - indent - 2).map(
    (line, index) => " ".repeat(index === 0 ? indent : indent + 2) + page.paint(line, tone),
  );
}
