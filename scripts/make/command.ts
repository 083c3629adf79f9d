// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from "node:child_process";
import { BuildError } from "./step.ts";

/** Runs a tool to its end, silently; returns its stdout. All that it said becomes the error where it fails. */
export function command(name: string, args: string[], cwd: string): string {
  const child = spawnSync(name, args, { cwd, encoding: "utf8", maxBuffer: 64 << 20 });
  if (child.error) throw new BuildError(`${name}: ${child.error.message}`);
  if (child.status !== 0) {
    const how = child.signal ? `was killed by ${child.signal}` : `exit status ${child.status}`;
    throw new BuildError(`${[name, ...args].join(" ")}: ${how}\n${child.stdout}${child.stderr}`);
  }
  return child.stdout;
}
