// SPDX-License-Identifier: Apache-2.0
/**
 * The log: JSON lines on stderr or in a file, never on stdout. Most calls write none, and pino costs 4 ms to load, so
 * lines are kept until `flush`, and pino is loaded only where there is one at the configured level.
 *
 * What is logged is chosen field by field; configurations and annotations hold secrets and never go in whole.
 * A log that cannot be written fails no pod.
 */
import { constants, openSync } from "node:fs";
import { writeWhole } from "./writing.ts";

export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}
export type Fields = Record<string, unknown>;

/** A log and who writes it out: the process, before it ends. */
export interface ProcessLog extends Log {
  /** Writes what was logged so far. Never throws. */
  flush(): Promise<void>;
}

/** The numbers are pino's. */
const severity = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60, silent: Number.POSITIVE_INFINITY };
type Level = "debug" | "info" | "warn" | "error";
interface Line {
  level: Level;
  message: string;
  fields: Fields;
}

/** A log of lines at `level` and above, in `file` or on stderr. An unknown level is `info`'s. Nothing is opened yet. */
export function openLog(options: { level: string; file?: string }): ProcessLog {
  const least = options.level in severity ? severity[options.level as keyof typeof severity] : severity.info;
  let lines: Line[] = [];
  const at =
    (level: Level) =>
    (message: string, fields: Fields = {}): void => {
      // The time is the event's, not the flush's.
      if (severity[level] >= least) lines.push({ level, message, fields: { time: Date.now(), ...fields } });
    };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    async flush() {
      const pending = lines;
      lines = [];
      if (pending.length === 0) return;
      try {
        await write(pending, least, options.file);
      } catch {
        // Nothing is left to say it on.
      }
    },
  };
}

async function write(lines: Line[], least: number, file: string | undefined): Promise<void> {
  const { pino } = await import("pino");
  let deadline = Date.now() + patience;
  let { fd, problem } = openDestination(file);
  const destination = {
    write(text: string): void {
      try {
        writeWhole(fd, text, deadline);
      } catch (error) {
        problem = (error as Error).message;
      }
    },
  };
  const logger = pino({ level: "trace", base: { pid: process.pid }, timestamp: false }, destination);
  /** The reason why the file cannot be had, on stderr; what is left goes there as well. */
  const giveUpFile = (reason: string): void => {
    fd = stderr;
    // The pipe's reader has used up its own time, not that of stderr's.
    deadline = Date.now() + patience;
    const message = `the log file cannot be written, logging to stderr: ${reason}`;
    if (severity.warn >= least) logger.warn({ time: Date.now(), file }, message);
  };
  if (problem !== undefined) giveUpFile(problem);
  for (const { level, message, fields } of lines) {
    problem = undefined;
    logger[level](fields, message);
    if (problem === undefined || fd === stderr) continue;
    giveUpFile(problem);
    logger[level](fields, message);
  }
}

const stderr = 2;
/** Milliseconds that the reader of a pipe has for all lines together: a pod's start waits with it. */
const patience = 500;

/** The file, or stderr and why. O_NONBLOCK: a named pipe that nobody reads must not stop a pod's start. */
function openDestination(file: string | undefined): { fd: number; problem?: string } {
  if (file === undefined) return { fd: stderr };
  try {
    const { O_APPEND, O_CREAT, O_NONBLOCK, O_WRONLY } = constants;
    return { fd: openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o600) };
  } catch (error) {
    return { fd: stderr, problem: (error as Error).message };
  }
}
