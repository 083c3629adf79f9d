// SPDX-License-Identifier: Apache-2.0
/** Turns arguments into values: node:util reads them, and what is wrong is said here, with the nearest right spelling. */

import { type ParseArgsConfig, parseArgs } from "node:util";
import { didYouMean } from "../catalog/words.ts";
import { type Arguments, type Options, UsageError } from "./command.ts";

/** Options of every command. */
export const globalOptions: Options = {
  json: { type: "boolean", help: "print JSON" },
  bpffs: { type: "string", value: "DIR", help: "the folder of the pins (default /sys/fs/bpf/remora)" },
  help: { type: "boolean", short: "h", help: "print this help" },
};

/**
 * Finds the command's name, the first bare word. Options before it must be global ones.
 *
 * @returns the name, undefined where there is none, and the arguments without it.
 */
export function splitCommand(argv: string[]): { name: string | undefined; rest: string[] } {
  const { tokens } = parseArgs({
    args: argv,
    options: optionTypes(globalOptions),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const word = tokens.find((token) => token.kind === "positional");
  return { name: word?.value, rest: argv.filter((_, index) => index !== word?.index) };
}

/** Reads a command's arguments. Throws UsageError for an unknown option, and for a value too many or missing. */
export function readArguments(argv: string[], own: Options): Arguments {
  const options = { ...globalOptions, ...own };
  const { tokens, positionals } = parseArgs({
    args: argv,
    options: optionTypes(options),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const given = new Map<string, string[]>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const option = Object.hasOwn(options, token.name) ? options[token.name] : undefined;
    if (option === undefined) {
      const spellings = Object.keys(options).map((name) => `--${name}`);
      throw new UsageError(`unknown option ${token.rawName}${didYouMean(`--${token.name}`, spellings)}`);
    }
    if (option.type === "boolean" && token.value !== undefined) {
      throw new UsageError(`option --${token.name} takes no value`);
    }
    // Without "=", parseArgs takes the next word whatever it is; an option there means that the value was forgotten.
    if (option.type === "string" && (!token.value || (!token.inlineValue && token.value.startsWith("-")))) {
      throw new UsageError(`option --${token.name} needs a value: --${token.name} ${option.value ?? "VALUE"}`);
    }
    const values = given.get(token.name) ?? [];
    if (option.type === "string" && values.length > 0 && !option.multiple) {
      throw new UsageError(`option --${token.name} is given twice`);
    }
    given.set(token.name, [...values, token.value ?? ""]);
  }
  return {
    text: (name) => given.get(name)?.[0],
    texts: (name) => given.get(name) ?? [],
    flag: (name) => given.has(name),
    positionals,
  };
}

function optionTypes(options: Options): NonNullable<ParseArgsConfig["options"]> {
  return Object.fromEntries(
    Object.entries(options).map(([name, { type, short }]) => [name, short ? { type, short } : { type }]),
  );
}
