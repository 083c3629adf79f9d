// SPDX-License-Identifier: Apache-2.0
/** The static launcher, dist/remora. */
import { mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { command } from "./command.ts";
import type { Step } from "./step.ts";
import { type Target, targetOf } from "./target.ts";

/** Builds the launcher at `output`, for this machine or another. musl, since a static glibc is large and wants its shared parts all the same. */
export function compileLauncher(root: string, output: string, target = targetOf(root)): void {
  mkdirSync(dirname(output), { recursive: true });
  // A running binary cannot be overwritten: write a sibling and rename.
  const fresh = `${output}.new`;
  const [compiler, ...flags] = target.musl();
  command(
    compiler,
    [
      ...flags,
      ...[
        "-std=gnu11",
        "-static",
        "-Os",
        "-s",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Werror",
        "-ffile-prefix-map=.=remora",
      ],
      ...["native/launcher/launcher.c", "-o", fresh],
    ],
    root,
  );
  renameSync(fresh, output);
}

export function launcherStep(root: string, target: Target): Step {
  return {
    name: "launcher",
    inputs: ["scripts/make/launcher.ts", "scripts/make/target.ts", "native/launcher/launcher.c"],
    outputs: [`${target.dist}/remora`],
    run: () => compileLauncher(root, join(root, target.dist, "remora"), target),
  };
}
