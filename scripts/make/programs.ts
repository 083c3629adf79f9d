// SPDX-License-Identifier: Apache-2.0
/** The program library: dist/programs, from bpf/. */
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { command } from "./command.ts";
import { refuseBuildPaths, type Step } from "./step.ts";
import type { Target } from "./target.ts";

/** Every program of the library, by its file's name. A test compares this list with the folder. */
export const programs = [
  "acl",
  "conn-limit",
  "count",
  "dns-log",
  "fault",
  "flow-log",
  "guard",
  "mark-dscp",
  "mirror",
  "rate-limit",
] as const;

/** Compiles one BPF C file, with BTF, against our headers and those vendored in `native`. Warnings are errors. */
export function compileBpf(
  root: string,
  source: string,
  object: string,
  flags: string[] = [],
  native = "native/build",
): void {
  // <asm/types.h> lies in a folder of the machine's architecture, which clang does not look into for this target.
  const machine = command("gcc", ["-print-multiarch"], root).trim();
  const includes = ["bpf/include", `${native}/vendor/include`].map((folder) => `-I${join(root, folder)}`);
  command(
    "clang",
    [
      ...["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3"],
      ...[...includes, `-I/usr/include/${machine}`],
      // The line information names the files: from the top of the repository, wherever that is.
      ...[`-ffile-prefix-map=${root}=.`, "-fdebug-compilation-dir=."],
      ...[...flags, "-c", source, "-o", object],
    ],
    root,
  );
}

/** The same bytes for every target: BPF has one instruction set, and nothing of it asks for the machine's. */
export function programsStep(root: string, target: Target): Step {
  const manifests = programs.filter((name) => existsSync(join(root, `bpf/${name}.yaml`)));
  const files = [...programs.map((name) => `${name}.bpf.o`), ...manifests.map((name) => `${name}.yaml`)];
  return {
    name: "programs",
    inputs: [
      ...["scripts/make/programs.ts", "bpf/include", "native/vendor.sh"],
      ...[...programs.map((name) => `bpf/${name}.bpf.c`), ...manifests.map((name) => `bpf/${name}.yaml`)],
    ],
    outputs: files.map((file) => `${target.dist}/programs/${file}`),
    run() {
      // Complete beside the old one, then in its place: whoever reads meanwhile sees the one or the other.
      const [place, fresh, old] = ["", ".new", ".old"].map((suffix) =>
        join(root, target.dist, `programs${suffix}`),
      ) as [string, string, string];
      for (const folder of [fresh, old]) rmSync(folder, { recursive: true, force: true });
      mkdirSync(fresh, { recursive: true });
      for (const name of programs) {
        const object = join(fresh, `${name}.bpf.o`);
        compileBpf(root, `bpf/${name}.bpf.c`, object, ["-Wextra"], target.native);
        // DWARF goes, with the paths it holds; BTF stays.
        command("llvm-strip", ["-g", object], root);
      }
      refuseBuildPaths(root, fresh);
      for (const name of manifests) copyFileSync(join(root, `bpf/${name}.yaml`), join(fresh, `${name}.yaml`));
      if (existsSync(place)) renameSync(place, old);
      renameSync(fresh, place);
      rmSync(old, { recursive: true, force: true });
    },
  };
}
