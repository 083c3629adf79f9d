// SPDX-License-Identifier: Apache-2.0
/** What a test run may leave on a machine: network namespaces, mounts, pins, BPF objects. Counted before and after. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** Each thing as a line a person can act on: `network namespace remora-test-1-1`, `bpf map 12`. */
export type Inventory = Set<string>;

/** @param root the top of the repository; the small helper that lists BPF ids is built into its .cache. */
export function takeInventory(root: string): Inventory {
  return new Set([...namespaces(), ...mounts(), ...pins("/sys/fs/bpf"), ...bpfObjects(root)]);
}

/**
 * What is there now and was not before. The kernel frees BPF objects and mounts some time after their last user has
 * gone, so this looks again until nothing is left, for ten seconds at most.
 */
export async function findLeftovers(root: string, before: Inventory): Promise<string[]> {
  for (let tries = 0; ; tries++) {
    const left = [...takeInventory(root)].filter((item) => !before.has(item));
    if (left.length === 0) return [];
    const ours = tries < 50 ? left : withoutHeldByOthers(left);
    if (ours.length === 0 || tries >= 50) return ours;
    await sleep(200);
  }
}

function namespaces(): string[] {
  return existsSync("/run/netns") ? readdirSync("/run/netns").map((name) => `network namespace ${name}`) : [];
}

function mounts(): string[] {
  return (
    readFileSync("/proc/self/mountinfo", "utf8")
      .trim()
      .split("\n")
      .map((line) => `mount ${line.split(" ")[4]}`)
      // The namespaces are said already; their folder, which `ip netns` mounts, stays for the next ones.
      .filter((line) => !/^mount \/run\/netns(\/|$)/.test(line))
  );
}

function pins(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return [`pin ${path}`, ...(entry.isDirectory() ? pins(path) : [])];
  });
}

function bpfObjects(root: string): string[] {
  const source = join(root, "scripts/testing/bpf-ids.c");
  const helper = join(root, ".cache/bpf-ids");
  if (!existsSync(helper) || statSync(helper).mtimeMs < statSync(source).mtimeMs) {
    mkdirSync(join(root, ".cache"), { recursive: true });
    execFileSync("gcc", ["-O2", "-Wall", "-Wextra", "-Werror", source, "-o", helper]);
  }
  const ids = execFileSync(helper, { encoding: "utf8" }).trim();
  return ids === "" ? [] : ids.split("\n").map((line) => `bpf ${line}`);
}

/** On a machine with other BPF users: an object that a living process holds open was not left by us, whose all ended. */
function withoutHeldByOthers(items: string[]): string[] {
  const held = new Set<string>();
  for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fdinfo`))
        for (const match of readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8").matchAll(
          /^(prog|map|link)_id:\s+(\d+)$/gm,
        ))
          held.add(`bpf ${match[1] === "prog" ? "program" : match[1]} ${match[2]}`);
    } catch {
      // the process or the descriptor is gone
    }
  }
  return items.filter((item) => !held.has(item));
}
