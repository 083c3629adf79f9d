// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run fuzz -- [SECONDS]`: builds the fuzzer of the object loader and runs it, 600 seconds if not told. Prints how many
 * inputs it tried, what it covered and what it found. The corpus in .cache/fuzz grows from run to run.
 */
import { resolve } from "node:path";
import { fuzzerStep, runFuzzer } from "./make/fuzzer.ts";
import { runStep } from "./make/step.ts";

const root = resolve(import.meta.dirname, "..");
const seconds = Number(process.argv[2] ?? 600);
if (!Number.isInteger(seconds) || seconds < 1) throw new Error("usage: npm run fuzz -- [SECONDS]");
runStep(root, fuzzerStep(root));
const { inputs, coverage, features, corpus, findings, report } = runFuzzer(root, seconds);
if (findings.length > 0) console.log(report);
console.log(
  `fuzz: ${inputs} inputs in ${seconds} s, coverage ${coverage} edges and ${features} features, corpus ${corpus} inputs`,
);
console.log(findings.length === 0 ? "fuzz: no findings" : `fuzz: found ${findings.join(", ")}`);
process.exitCode = findings.length === 0 ? 0 : 1;
