// SPDX-License-Identifier: Apache-2.0
/** Which test files there are, and which part each belongs to: the order of a whole run, what it needs, its limits. */
import { readdirSync } from "node:fs";
import { join } from "node:path";

export interface Part {
  name: string;
  /** What must be built before: the addon and the programs, or the whole installation tree. */
  needs: "addon" | "tree";
  /** Files at a time. Those that share the machine's network or pins go one by one. */
  parallel: number;
  /** Seconds that one file may take. */
  limit: number;
  /** Whether a file, by its path from the top of the repository, belongs here. */
  holds(path: string): boolean;
}

const below =
  (...folders: string[]) =>
  (path: string): boolean =>
    folders.some((folder) => path.startsWith(`${folder}/`));

/** The first part that holds a file has it. */
export const parts: readonly Part[] = [
  // What takes longest, side by side: the first waits for the kernel most of its time, the others compute.
  { name: "e2e", needs: "tree", parallel: 2, limit: 900, holds: below("e2e/crash", "e2e/kernels", "native/fuzz") },
  {
    name: "kernel",
    needs: "addon",
    parallel: 1,
    limit: 180,
    holds: (path) =>
      path.endsWith(".kernel.test.ts") || below("native", "bpf", "plugin/kernel", "e2e/lib", "bench")(path),
  },
  { name: "unit", needs: "addon", parallel: 2, limit: 120, holds: below("plugin", "scripts", "conflist") },
  { name: "protocol", needs: "tree", parallel: 1, limit: 300, holds: below("e2e/protocol") },
  { name: "tree", needs: "tree", parallel: 1, limit: 300, holds: below("e2e/tree") },
  { name: "e2e", needs: "tree", parallel: 1, limit: 900, holds: below("e2e") },
];

/** A whole run begins with what is quickest to tell. */
export const order = ["unit", "kernel", "protocol", "tree", "e2e"] as const;

export interface TestFile {
  path: string;
  part: Part;
}

const skipped = new Set(["node_modules", "dist", "build", ".git", ".cache", "fixtures"]);

/** Every test file below `root`, in the order of a run. Throws where a file belongs to no part: it would never run. */
export function findTests(root: string): TestFile[] {
  const files = readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !skipped.has(entry.name))
    .flatMap((entry) => walk(root, entry.name))
    .sort()
    .map((path) => {
      const part = parts.find((candidate) => candidate.holds(path));
      if (!part) throw new Error(`${path} belongs to no part: see scripts/testing/parts.ts`);
      return { path, part };
    });
  return order.flatMap((name) => files.filter((file) => file.part.name === name));
}

/** Those that the words select: a word is a part's name or a piece of a path. Throws for one that selects nothing. */
export function select(files: TestFile[], words: string[]): TestFile[] {
  if (words.length === 0) return files;
  const matches = (file: TestFile, word: string) =>
    parts.some((part) => part.name === word) ? file.part.name === word : file.path.includes(word);
  for (const word of words)
    if (!files.some((file) => matches(file, word)))
      throw new Error(`no test file matches "${word}"; parts are ${order.join(", ")}`);
  return files.filter((file) => words.some((word) => matches(file, word)));
}

function walk(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return skipped.has(entry.name) ? [] : walk(root, path);
    return entry.name.endsWith(".test.ts") ? [path] : [];
  });
}
