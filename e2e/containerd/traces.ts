// SPDX-License-Identifier: Apache-2.0
/** What of a test node is still on the machine: each trace as words for a person. None when the node is gone. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";

/** Whatever carries the node's folder or its name: processes, mounts, cgroups, the folder itself. */
export function traces(dir: string): string[] {
  const name = basename(dir);
  return [
    ...readdirSync("/proc")
      .filter((pid) => /^\d+$/.test(pid) && commandLine(pid).includes(name))
      .map((pid) => `process ${pid}`),
    ...readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(name))
      .map((line) => `mount ${line.split(" ")[4]}`),
    // One hierarchy of version 2, or those of version 1 side by side.
    ...["", ...(existsSync("/sys/fs/cgroup") ? readdirSync("/sys/fs/cgroup") : [])]
      .map((hierarchy) => join("/sys/fs/cgroup", hierarchy, name))
      .filter((cgroup) => existsSync(cgroup))
      .map((cgroup) => `cgroup ${cgroup}`),
    ...(existsSync(dir) ? [`folder ${dir}`] : []),
  ];
}

/** Empty for a process that ended meanwhile. */
function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}
