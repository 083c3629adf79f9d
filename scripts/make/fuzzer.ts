// SPDX-License-Identifier: Apache-2.0
/**
 * The fuzzer of the object loader: the addon's plain C++ and libbpf, compiled with libFuzzer and sanitizers, in .cache/fuzz.
 * libelf is the vendored one, without them.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { command } from "./command.ts";
import { compileBpf } from "./programs.ts";
import { BuildError, type Step } from "./step.ts";

const folder = ".cache/fuzz";
/** What reads objects; nothing that talks to the kernel by itself. */
const loader = ["btf", "code", "elffile", "fd", "inplace", "inspect", "maps", "open", "prologue", "stage", "verifier"];
const downloads = "native/build/vendor-work/download";

export function fuzzerStep(root: string): Step {
  return {
    name: "fuzzer",
    inputs: ["scripts/make/fuzzer.ts", "native/fuzz", "native/src", "native/vendor.sh"],
    outputs: [`${folder}/loader`],
    run() {
      const work = join(root, folder);
      const vendor = join(root, "native/build/vendor");
      const libbpf = unpackLibbpf(root, work);
      const includes = ["-isystem", join(vendor, "include")];
      const common = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=fuzzer-no-link,address", ...includes];
      const objects = join(work, "objects");
      rmSync(objects, { recursive: true, force: true });
      mkdirSync(objects);
      for (const source of readdirSync(libbpf).filter((name) => name.endsWith(".c")))
        command(
          "clang",
          [
            ...[...common, "-std=gnu89", "-w", "-D_LARGEFILE64_SOURCE", "-D_FILE_OFFSET_BITS=64"],
            ...["-Dsyscall=fuzz_syscall", `-I${libbpf}`, `-I${join(libbpf, "../include")}`],
            ...[`-I${join(libbpf, "../include/uapi")}`, "-c", join(libbpf, source)],
            ...["-o", join(objects, `libbpf-${basename(source, ".c")}.o`)],
          ],
          root,
        );
      const sources = [
        ...loader.map((name) => `native/src/${name}.cpp`),
        ...["loader", "kernel", "mutate"].map((name) => `native/fuzz/${name}.cpp`),
      ];
      for (const source of sources)
        command(
          "clang++",
          [
            ...[...common, "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-std=c++20", "-Wall", "-Werror"],
            ...["-Wno-missing-field-initializers", "-c", source, "-o", join(objects, `${basename(source, ".cpp")}.o`)],
          ],
          root,
        );
      const libraries = ["libelf.a", "libeu.a", "libz.a"].map((name) => join(vendor, "lib", name));
      const all = readdirSync(objects).map((name) => join(objects, name));
      command(
        "clang++",
        ["-fsanitize=fuzzer,address,undefined", ...all, ...libraries, "-o", join(work, "loader")],
        root,
      );
      makeSeeds(root, join(work, "seeds"));
    },
  };
}

/** The sources that the addon is built of; returns the folder with its C files. */
function unpackLibbpf(root: string, work: string): string {
  const tree = process.env.LIBBPF_SRC;
  if (tree) return join(tree, "src");
  const present = existsSync(join(root, downloads)) ? readdirSync(join(root, downloads)) : [];
  // The packaging, which apt brings along, is named alike.
  const archive = present.find((name) => /^libbpf_.*\.orig\.tar\.\w+$/.test(name));
  if (!archive)
    throw new BuildError(`the fuzzer needs libbpf's sources in ${downloads}: remove native/build and build the addon`);
  const target = join(work, "libbpf");
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  command("tar", ["-xf", join(root, downloads, archive), "-C", target, "--strip-components=1"], root);
  return join(target, "src");
}

/** The library's programs and the fixtures of the loader's own tests. */
function makeSeeds(root: string, seeds: string): void {
  rmSync(seeds, { recursive: true, force: true });
  mkdirSync(seeds);
  for (const name of readdirSync(join(root, "dist/programs")).filter((file) => file.endsWith(".bpf.o")))
    command("cp", [join(root, "dist/programs", name), seeds], root);
  for (const name of readdirSync(join(root, "native/fixtures")).filter((file) => file.endsWith(".bpf.c"))) {
    const object = join(seeds, name.replace(/\.c$/, ".o"));
    compileBpf(root, `native/fixtures/${name}`, object);
    command("llvm-strip", ["-g", object], root); // DWARF is nothing that is read
  }
}

export interface Findings {
  /** How many inputs were tried. */
  inputs: number;
  /** Branches of the code that were reached (libFuzzer's `cov`), and combinations of them (`ft`). */
  coverage: number;
  features: number;
  /** Inputs that led to them are kept and built on by the next run. */
  corpus: number;
  /** Files with an input that crashed, leaked or hung, and what was said of it. */
  findings: string[];
  /** What libFuzzer and the sanitizers said of the finding. */
  report: string;
}

/** Runs the fuzzer that `fuzzerStep` has built. Stops at the first finding. */
export function runFuzzer(root: string, seconds: number, corpusName = "corpus"): Findings {
  const work = join(root, folder);
  const [corpus, artefacts] = [join(work, corpusName), join(work, "findings")];
  for (const path of [corpus, artefacts]) mkdirSync(path, { recursive: true });
  const before = new Set(readdirSync(artefacts));
  const child = spawnSync(
    join(work, "loader"),
    [
      ...[`-max_total_time=${seconds}`, "-max_len=65536", "-timeout=10", "-rss_limit_mb=3072"],
      ...["-print_final_stats=1", "-close_fd_mask=1", `-artifact_prefix=${artefacts}/`],
      ...[corpus, join(work, "seeds")],
    ],
    { encoding: "utf8", maxBuffer: 256 << 20, env: { ...process.env, ASAN_OPTIONS: "allocator_may_return_null=1" } },
  );
  if (child.error) throw child.error;
  const output = `${child.stdout}${child.stderr}`;
  const last = (pattern: RegExp): number => Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0);
  const findings = readdirSync(artefacts)
    .filter((name) => !before.has(name))
    .map((name) => join(folder, "findings", name));
  if (child.status !== 0 && findings.length === 0) findings.push(`exit status ${child.status ?? child.signal}`);
  return {
    inputs: last(/stat::number_of_executed_units: +(\d+)/g) || last(/^#(\d+)/gm),
    coverage: last(/ cov: (\d+)/g),
    features: last(/ ft: (\d+)/g),
    corpus: last(/ corp: (\d+)/g),
    findings,
    report: output.replace(/^(#|INFO).*\n/gm, ""),
  };
}
