// SPDX-License-Identifier: Apache-2.0
/** `remora inspect --load`: what the verifier of this machine says of an object's entries. */

import { loadAlone } from "../chain/alone.ts";
import { Handles } from "../chain/undo.ts";
import { type Direction, KernelError, type KernelPort, type StageRequest } from "../kernel/port.ts";
import { table } from "./table.ts";
import { type Page, paragraph } from "./terminal.ts";

/** One function as `--json` prints it. */
export interface LoadedEntry {
  function: string;
  directions: Direction[];
  loads: boolean;
  /** Why not, in a line; and the whole log. */
  reason: string | null;
  log: string | null;
  /** Instructions that the verifier went through, and those that it left; null where nothing was loaded or the kernel does not tell. */
  verified: number | null;
  instructions: number | null;
  milliseconds: number | null;
}

/** Loads each function once, alone in a chain that no packet runs through, and lets go of it. */
export function loadEntries(
  kernel: KernelPort,
  request: Pick<StageRequest, "object" | "name">,
  entries: { direction: Direction; function: string }[],
  parameters: StageRequest["entries"][number]["parameters"],
): LoadedEntry[] {
  const names = [...new Set(entries.map((entry) => entry.function))];
  return names.map((name) => {
    const directions = entries.filter((entry) => entry.function === name).map(({ direction }) => direction);
    const nothing = { reason: null, log: null, verified: null, instructions: null, milliseconds: null };
    using handles = new Handles(kernel);
    try {
      const started = performance.now();
      const stage = loadAlone(
        kernel,
        { ...request, entries: [{ function: name, parameters }], proceedOn: [-1, 0, 3] },
        handles,
      );
      const milliseconds = Math.round((performance.now() - started) * 100) / 100;
      const { verified, instructions } = kernel.programInfo(stage.program);
      return {
        function: name,
        directions,
        loads: true,
        ...nothing,
        verified: verified || null,
        instructions,
        milliseconds,
      };
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      return { function: name, directions, loads: false, ...nothing, reason: error.message, log: error.log ?? null };
    }
  });
}

/** The page that a person reads, below the object's. */
export function renderLoaded(loaded: LoadedEntry[], page: Page): string {
  const rows = loaded.map((entry) => ({
    cells: [
      entry.function,
      entry.directions.join(", "),
      { text: entry.loads ? "loads" : "is refused", tone: entry.loads ? ("good" as const) : ("bad" as const) },
      entry.verified ?? "",
      entry.instructions ?? "",
      entry.milliseconds === null ? "" : `${entry.milliseconds.toFixed(1)} ms`,
    ],
  }));
  const columns = [
    { title: "function", fit: "wrap" as const },
    { title: "entry" },
    { title: "this kernel" },
    { title: "verified", align: "right" as const },
    { title: "instructions", align: "right" as const },
    { title: "time", align: "right" as const },
  ];
  const reasons = loaded.flatMap(({ reason, log }) => [
    ...(reason === null ? [] : ["", ...paragraph(page, reason, 2, "bad")]),
    ...(log ?? "")
      .trimEnd()
      .split("\n")
      .slice(-shownLines)
      .flatMap((line) => (line === "" ? [] : paragraph(page, line, 4, "faint"))),
  ]);
  return `${[...table(page, columns, rows, 2), ...reasons].join("\n")}\n`;
}

/** Of a verifier's log, which may have thousands of lines; all of it is in the JSON. */
const shownLines = 12;
