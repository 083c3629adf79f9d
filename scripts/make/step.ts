// SPDX-License-Identifier: Apache-2.0
/** A step of the build: what it reads, what it writes, and whether anything has changed since it last ran. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export interface Step {
  name: string;
  /** Files and folders, from the top of the repository. Hidden folders, `build` and `node_modules` inside are left out. */
  inputs: string[];
  /** What is there when it has run. */
  outputs: string[];
  run(): void;
}

/** A build that cannot go on; the message says why and is all that is shown. */
export class BuildError extends Error {
  override readonly name = "BuildError";
}

/**
 * Runs the step unless its outputs are there and its inputs are, byte for byte, those of the last time. Returns
 * whether it ran. The stamp is written last, so a step that was interrupted runs again. `stamps`: the folder of these.
 */
export function runStep(root: string, step: Step, stamps = ".cache/build"): boolean {
  const stamp = join(root, stamps, `${step.name}.stamp`);
  const wanted = digestInputs(root, step);
  const done = existsSync(stamp) && readFileSync(stamp, "utf8") === wanted;
  if (done && step.outputs.every((output) => existsSync(join(root, output)))) return false;
  step.run();
  for (const output of step.outputs)
    if (!existsSync(join(root, output))) throw new BuildError(`${step.name} did not write ${output}`);
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, wanted);
  return true;
}

/** Big files (Node itself) count by size and time: reading them would take longer than the rest together. */
const big = 4 << 20;

function digestInputs(root: string, step: Step): string {
  const hash = createHash("sha256");
  for (const input of step.inputs) {
    if (!existsSync(join(root, input))) throw new BuildError(`${step.name} needs ${input}, which is not there`);
    for (const path of filesBelow(root, input)) {
      const { size, mtimeMs } = statSync(join(root, path));
      hash.update(`${path}\0${size}\0`);
      hash.update(size > big ? String(mtimeMs) : readFileSync(join(root, path)));
    }
  }
  return hash.digest("hex");
}

function filesBelow(root: string, path: string): string[] {
  if (!statSync(join(root, path)).isDirectory()) return [path];
  return readdirSync(join(root, path), { withFileTypes: true })
    .filter((entry) => !entry.name.startsWith(".") && entry.name !== "build" && entry.name !== "node_modules")
    .flatMap((entry) => filesBelow(root, `${path}/${entry.name}`))
    .sort();
}

/** An installation tree tells nothing of where it was built. */
export function refuseBuildPaths(root: string, folder: string): void {
  for (const name of readdirSync(folder))
    if (holdsPath(readFileSync(join(folder, name)), root))
      throw new BuildError(`${name} holds the path of the build machine, ${root}`);
}

/** Whether the bytes hold a path below `root`: one that begins there, for `/src/` may be in the middle of another. */
export function holdsPath(bytes: Buffer, root: string): boolean {
  const path = `${root}/`;
  for (let at = bytes.indexOf(path); at >= 0; at = bytes.indexOf(path, at + 1))
    if (at === 0 || !/[\w./+-]/.test(String.fromCharCode(bytes[at - 1] ?? 0))) return true;
  return false;
}
