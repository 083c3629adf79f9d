// SPDX-License-Identifier: Apache-2.0
/** What stands in the program directories, and whether it can be trusted. */

import { openCatalog } from "../../catalog/catalog.ts";
import type { KernelPort } from "../../kernel/port.ts";
import type { Check } from "./check.ts";

/** A directory that is not to be trusted fails every ADD; one object that cannot be used only those that ask for it. */
export async function checkPrograms(directories: string[], kernel: KernelPort): Promise<Check[]> {
  const check = "programs";
  const catalog = await openCatalog(directories, kernel);
  const { programs, problems } = catalog.list();
  const unusable = new Set(catalog.directories.flatMap(({ path, state }) => (typeof state === "string" ? [] : [path])));
  const there = catalog.directories.flatMap(({ path, state }) => (state === "ok" ? [path] : []));
  const checks = problems.map(
    ({ path, error }): Check => ({
      check,
      state: unusable.has(path) ? "missing" : "note",
      // Most reasons begin with the path.
      found: error.message.includes(path) ? error.message : `${path}: ${error.message}`,
    }),
  );
  if (programs.length > 0) {
    const names = programs.map(({ name }) => name).join(", ");
    return [{ check, state: "ok", found: `${there.join(", ")}: ${names}` }, ...checks];
  }
  const remedy = `install -d -m 755 ${directories[0] ?? ""}, and put objects (NAME.bpf.o) there`;
  const found = `no program in ${directories.join(" or ")}`;
  return checks.length > 0 ? checks : [{ check, state: "note", found, remedy }];
}
