// SPDX-License-Identifier: Apache-2.0
/**
 * The command line: finds the command, reads its arguments, runs it, and turns what it throws into words.
 * Each command's file is loaded only when it is called.
 */

import { didYouMean } from "../catalog/words.ts";
import { RemoraError } from "../errors.ts";
import { KernelError } from "../kernel/port.ts";
import { globalOptions, readArguments, splitCommand } from "./arguments.ts";
import { type Command, type Io, type Options, type Tools, UsageError } from "./command.ts";
import { printable } from "./terminal.ts";

export type { Io, Tools } from "./command.ts";

/** Where pins live unless told otherwise; the same default as the network configuration's `bpffs`. */
const defaultBpffs = "/sys/fs/bpf/remora";

/** "To add a command": its file, and its line here. */
const commands: Record<string, { summary: string; load(): Promise<{ command: Command }> }> = {
  status: { summary: "what is attached on this node, with counters", load: () => import("./status.ts") },
  top: { summary: "what is attached, live, with rates", load: () => import("./top.ts") },
  trace: { summary: "packets of a pod, hop by hop through its chain", load: () => import("./trace.ts") },
  flows: { summary: "with whom a pod speaks, and what it asks of DNS", load: () => import("./flows.ts") },
  maps: { summary: "what the maps of a pod's program hold", load: () => import("./maps.ts") },
  programs: { summary: "the catalog: what a pod can ask for", load: () => import("./programs.ts") },
  inspect: { summary: "one object: entries, parameters, maps", load: () => import("./inspect.ts") },
  apply: { summary: "gives a running pod another chain, without loss", load: () => import("./apply.ts") },
  attach: { summary: "attaches a chain by hand, to any interface", load: () => import("./attach.ts") },
  detach: { summary: "takes a chain away by hand", load: () => import("./detach.ts") },
  doctor: { summary: "what this machine can do, and what is missing", load: () => import("./doctor.ts") },
  gc: { summary: "removes what belongs to no live container", load: () => import("./gc.ts") },
  version: { summary: "the version", load: () => import("./version.ts") },
};

const machine: Tools = {
  kernel: async () => (await import("../kernel/native.ts")).createNativeKernel(),
  root: "/",
};

/**
 * Runs one command line.
 *
 * @param argv the arguments behind the executable's name.
 * @returns the exit status: 0 done, 1 failed, 2 wrong usage. Never throws what a command threw.
 */
export async function run(argv: string[], io: Io, tools: Tools = machine): Promise<number> {
  const { name, rest } = splitCommand(argv);
  try {
    if (name === undefined) return await runBare(argv, io, tools);
    if (name === "help") return await help(rest, io);
    const command = await load(name);
    const args = readArguments(rest, command.options);
    if (args.flag("help")) {
      io.stdout(commandHelp(name, command));
      return 0;
    }
    if (args.positionals.length > command.maxOperands) {
      throw new UsageError(`one argument too many: ${args.positionals[command.maxOperands]}`);
    }
    return await command.run({
      args,
      io,
      tools,
      json: args.flag("json"),
      bpffs: args.text("bpffs") ?? defaultBpffs,
    });
  } catch (error) {
    return report(error, name !== undefined && Object.hasOwn(commands, name) ? name : undefined, io);
  }
}

/** No command: the version, the help, or what this is. */
async function runBare(argv: string[], io: Io, tools: Tools): Promise<number> {
  const args = readArguments(argv, { version: { type: "boolean", help: "" } });
  if (args.flag("version")) return await run(["version", ...(args.flag("json") ? ["--json"] : [])], io, tools);
  io.stdout(overview());
  return 0;
}

async function help(argv: string[], io: Io): Promise<number> {
  const [name, extra] = readArguments(argv, {}).positionals;
  if (extra !== undefined) throw new UsageError(`one argument too many: ${extra}`);
  io.stdout(name === undefined ? overview() : commandHelp(name, await load(name)));
  return 0;
}

async function load(name: string): Promise<Command> {
  const known = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (known === undefined) {
    throw new UsageError(`unknown command ${JSON.stringify(name)}${didYouMean(name, Object.keys(commands))}`);
  }
  return (await known.load()).command;
}

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  return `Remora attaches chains of TC (eBPF) programs to pods, inside their network namespaces.
Container runtimes run it as a CNI plugin, behind the primary one. In a terminal it shows and
checks what it does on this node.

Usage: remora COMMAND [OPTIONS]

Commands:
${Object.entries(commands)
  .map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}\n`)
  .join("")}
Options of every command:
${optionLines(globalOptions)}
remora COMMAND --help tells more about each. Exit status: 0 done, 1 failed, 2 wrong usage.
`;
}

function commandHelp(name: string, command: Command): string {
  const usage = ["Usage: remora", name, command.operands, "[OPTIONS]"].filter(Boolean).join(" ");
  return `${usage}

${command.help.trim()}

Options:
${optionLines({ ...command.options, ...globalOptions })}`;
}

function optionLines(options: Options): string {
  const spelled = Object.entries(options).map(([name, option]) => ({
    spelling: option.type === "string" ? `--${name} ${option.value ?? "VALUE"}` : `--${name}`,
    help: option.multiple ? `${option.help}; may be repeated` : option.help,
  }));
  const width = Math.max(...spelled.map(({ spelling }) => spelling.length));
  return spelled.map(({ spelling, help }) => `  ${spelling.padEnd(width)}  ${help}\n`).join("");
}

/** Says on stderr what went wrong, and with which exit status. */
async function report(thrown: unknown, command: string | undefined, io: Io): Promise<number> {
  // A program that did not load is put into words where ADD's are.
  const error =
    thrown instanceof Error && thrown.name === "EntryFailed"
      ? (await import("../chain/explain.ts")).asRemoraError(thrown)
      : thrown;
  const who = command === undefined ? "remora" : `remora ${command}`;
  if (error instanceof UsageError) {
    io.stderr(`${who}: ${error.message}\n${who} --help tells how.\n`);
    return 2;
  }
  if (error instanceof RemoraError) {
    io.stderr(`${who}: ${printable(error.message)}\n${lines(error.details)}`);
    return 1;
  }
  if (error instanceof KernelError) {
    io.stderr(`${who}: ${printable(error.message)}\n${lines(error.log ?? "")}`);
    return 1;
  }
  // Who removes goes on over what he cannot remove.
  if (error instanceof AggregateError && error.errors.every((one) => one instanceof KernelError)) {
    io.stderr(`${who}: ${error.errors.length} operations failed:\n`);
    for (const { message } of error.errors) io.stderr(`  ${printable(message)}\n`);
    return 1;
  }
  // A file that cannot be read is the user's affair; anything else is ours, and then the stack is what helps.
  const known = error instanceof Error && "code" in error && "syscall" in error;
  io.stderr(`${who}: ${known ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
  return 1;
}

/** A text of several lines, fit for a terminal. */
function lines(text: string): string {
  if (text.trim() === "") return "";
  return `${text.trimEnd().split("\n").map(printable).join("\n")}\n`;
}
