// SPDX-License-Identifier: Apache-2.0
/** What a command of the command line is, and what it is given. One file per command exports one of these. */

import type { KernelPort } from "../kernel/port.ts";

/** The process, as far as the command line may touch it. */
export interface Io {
  stdout(text: string): void;
  stderr(text: string): void;
  /** True where stdout is a terminal. */
  isTerminal: boolean;
  /** Of the terminal; 0 where it is unknown. */
  columns: number;
  /** For commands that go on until they are stopped: begins to listen for keys and signals. */
  watch?(): Promise<Watch>;
  env?: Record<string, string | undefined>;
  /** The running executable (`process.execPath`): the program library lies in `../programs` of its folder. */
  executable?: string;
}

/** Time, and the wish to stop: a signal, `q` or Ctrl-C on a terminal, stdout that nobody reads any more. */
export interface Watch extends Disposable {
  readonly stopped: boolean;
  /** Milliseconds of a clock that never jumps. */
  now(): number;
  /** CLOCK_MONOTONIC, the kernel's clock of events, in nanoseconds. */
  monotonic(): bigint;
  /** Wall clock, milliseconds since the epoch. */
  date(): number;
  /** Columns and rows of the terminal as it is now; 0 where they are unknown. */
  size(): { columns: number; rows: number };
  /** Waits that long; ends early, with what happened, where a key is pressed or the command is to stop. */
  pause(milliseconds: number): Promise<"elapsed" | "stopped" | { key: string }>;
}

/** What a command reaches beyond its arguments; a test puts its own in place. */
export interface Tools {
  /** Opened on first use: `--help` needs no addon. */
  kernel(): Promise<KernelPort>;
  /** The folder that stands for `/` where a command reads the machine's own files (`/proc`, `/etc/cni`). */
  root: string;
}

/** Exit statuses that a user meets: 0 done, 1 failed, 2 wrong usage. */
export type ExitStatus = 0 | 1 | 2;

export interface Option {
  type: "string" | "boolean";
  /** One letter that stands for it. */
  short?: string;
  /** May be given several times. */
  multiple?: boolean;
  /** What stands for the value in the help, such as `DIR`. */
  value?: string;
  help: string;
}
export type Options = Record<string, Option>;

/** The parsed arguments: values by option name, and what stood bare. */
export interface Arguments {
  /** The value of an option that takes one, undefined where it was not given. */
  text(name: string): string | undefined;
  /** Every value of an option that may be given several times. */
  texts(name: string): string[];
  flag(name: string): boolean;
  positionals: string[];
}

export interface Call {
  args: Arguments;
  io: Io;
  tools: Tools;
  json: boolean;
  /** The bpffs folder that holds the pins. */
  bpffs: string;
}

export interface Command {
  /** Behind the command's name, such as `[POD or CONTAINER]`. */
  operands: string;
  maxOperands: number;
  options: Options;
  /** The body of `remora COMMAND --help`, between the usage line and the options; at most 100 columns wide. */
  help: string;
  run(call: Call): Promise<ExitStatus>;
}

/** Arguments that make no sense. Ends with exit status 2 and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
