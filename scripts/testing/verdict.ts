// SPDX-License-Identifier: Apache-2.0
/**
 * Whether a test file may be believed. uvu exits with 0 when `.run()` is forgotten, when a hook throws and when a
 * test is skipped, so its exit status alone says little: what counts is the one summary it prints at the end.
 */
import { stripVTControlCharacters } from "node:util";

/** How the process of a test file ended. */
export interface Ending {
  /** Null where a signal ended it. */
  status: number | null;
  signal: string | null;
  /** All it printed, stdout and stderr. */
  output: string;
  timedOut: boolean;
  /** Seconds it was given. */
  limit: number;
  /** Processes that it left running, as `pid command`. */
  survivors: string[];
}

export interface Verdict {
  passed: number;
  failed: number;
  /** Why the file fails; none where it passes. */
  problems: string[];
}

const summary = /^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)\n {2}Duration: /gm;

export function judge(ending: Ending): Verdict {
  const problems: string[] = [];
  if (ending.timedOut) problems.push(`took longer than ${ending.limit} s`);
  else if (ending.signal) problems.push(`was killed by ${ending.signal}`);
  else if (ending.status !== 0) problems.push(`exit status ${ending.status}`);

  const summaries = [...stripVTControlCharacters(ending.output).matchAll(summary)];
  let passed = 0;
  let failed = 0;
  if (summaries.length === 0) problems.push("no summary: was .run() forgotten, or did it stop half-way?");
  if (summaries.length > 1) problems.push(`${summaries.length} summaries: one file is one program with one summary`);
  for (const match of summaries) {
    const [total, good, left] = match.slice(1).map(Number) as [number, number, number];
    passed += good;
    failed += total - good;
    if (total === 0) problems.push("holds no test");
    if (total !== good) problems.push(`${total - good} of ${total} failed`);
    if (left > 0) problems.push(`${left} skipped`);
  }
  for (const survivor of ending.survivors) problems.push(`left running: ${survivor}`);
  if (problems.length > 0 && failed === 0) failed = 1;
  return { passed, failed, problems };
}
