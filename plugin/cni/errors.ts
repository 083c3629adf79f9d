// SPDX-License-Identifier: Apache-2.0
/** How an error leaves the process: one JSON object on stdout, exit status 1. */
import { code, RemoraError } from "../errors.ts";
import { show } from "./json.ts";
import { newestVersion } from "./version.ts";

/** What the process prints, and its exit status. `stdout` is empty or one JSON object with a newline. */
export interface Outcome {
  stdout: string;
  exitCode: 0 | 1;
}

/**
 * The CNI error object. Whatever is no RemoraError is a bug of Remora, or of what it runs on: code 199, with the stack
 * in `details`. `cniVersion` is the configuration's, where that was read before things went wrong.
 */
export function failure(error: unknown, cniVersion: string = newestVersion): Outcome {
  const { code, message, details } = error instanceof RemoraError ? error : unexpected(error);
  return { stdout: `${JSON.stringify({ cniVersion, code, msg: message, details })}\n`, exitCode: 1 };
}

function unexpected(error: unknown): { code: number; message: string; details: string } {
  const message = error instanceof Error ? error.message : String(error);
  const details = error instanceof Error ? (error.stack ?? "") : "";
  return { code: code.internal, message: `internal error: ${message}`, details };
}

/** The error for a value in the configuration that is not what it should be (code 7): where, what would be right, what is there. */
export function wrong(path: string, expected: string, value: unknown): RemoraError {
  return new RemoraError(code.invalidConfig, `${path}: expected ${expected}, got ${show(value)}`);
}
