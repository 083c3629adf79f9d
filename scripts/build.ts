// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run build`: the installation tree in dist/. `npm run build -- STEP...` runs only those steps. A step whose
 * inputs have not changed since it last ran does nothing.
 *
 * `npm run build -- --arch arm64 [STEP...]` builds for machines of that architecture, in dist-arm64/. What it needs
 * beyond the other build, Debian's cross compiler, it installs itself.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { command } from "./make/command.ts";
import { launcherStep } from "./make/launcher.ts";
import { programsStep } from "./make/programs.ts";
import { runtimeStep } from "./make/runtime.ts";
import { BuildError, runStep, type Step } from "./make/step.ts";
import { type Target, targetOf } from "./make/target.ts";

const root = resolve(import.meta.dirname, "..");

const types: Step = {
  name: "types",
  inputs: [
    ...["package.json", "package-lock.json", "tsconfig.json"],
    ...(JSON.parse(readFileSync(join(root, "tsconfig.json"), "utf8")).include as string[]),
  ],
  outputs: [],
  run: () => void command("node_modules/.bin/tsc", ["-p", ".", "--pretty", "false"], root),
};

const addonStep = (target: Target): Step => ({
  name: "addon",
  inputs: ["package-lock.json", "native/build.sh", "native/vendor.sh", "native/CMakeLists.txt", "native/src"],
  outputs: [`${target.native}/Release/remora.node`],
  run: () => void command("bash", ["native/build.sh", ...target.buildArguments], root),
});

function main(args: string[]): void {
  const { values, positionals: names } = readArguments(args);
  const target = targetOf(root, values.arch);
  if (!target.runsHere) command("bash", ["scripts/setup.sh", "cross"], root);
  // In the order they need each other: the programs are compiled with headers that the addon's build unpacks.
  const steps = [
    types,
    addonStep(target),
    programsStep(root, target),
    launcherStep(root, target),
    runtimeStep(root, target),
  ];
  const unknown = names.find((name) => !steps.some((step) => step.name === name));
  if (unknown) throw new BuildError(`no step "${unknown}"; steps are ${steps.map((step) => step.name).join(", ")}`);
  for (const step of steps.filter(({ name }) => names.length === 0 || names.includes(name))) {
    const started = performance.now();
    // The types are the same everywhere.
    const ran = runStep(root, step, step === types ? undefined : target.work);
    if (ran) console.log(`build: ${step.name}, ${((performance.now() - started) / 1000).toFixed(1)} s`);
  }
}

function readArguments(args: string[]) {
  try {
    return parseArgs({ args, allowPositionals: true, options: { arch: { type: "string" } } });
  } catch (error) {
    throw new BuildError((error as Error).message);
  }
}

// Two builds at once would write the same files: the second waits, and finds its work done.
if (process.env.REMORA_BUILD_LOCKED === undefined) {
  mkdirSync(join(root, ".cache"), { recursive: true });
  const lock = join(root, ".cache/build.lock");
  const again = spawnSync("flock", [lock, process.execPath, import.meta.filename, ...process.argv.slice(2)], {
    stdio: "inherit",
    env: { ...process.env, REMORA_BUILD_LOCKED: "1" },
  });
  if (again.error) throw again.error;
  process.exitCode = again.status ?? 1;
} else {
  try {
    main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(`build: ${error.message}`);
    process.exitCode = 1;
  }
}
