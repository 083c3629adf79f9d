// SPDX-License-Identifier: Apache-2.0
/** A virtual machine for one kernel: disk, initramfs, QEMU in software emulation, and what comes over the serial line. */
import { spawn } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { run } from "../lib/scratch.ts";
import type { Machine } from "./architecture.ts";
import type { Kernel } from "./packages.ts";

const root = resolve(import.meta.dirname, "../..");

/** What one file printed, and how it ended (124: it took too long). Seconds of the machine's own clock. */
export interface Ended {
  file: string;
  status: number;
  seconds: number;
  output: string;
}
export interface Outcome {
  /** As the kernel says it; undefined where it did not come up. */
  release: string | undefined;
  ended: Ended[];
  /** Why it did not come to its end, and other things that should not be. */
  problems: string[];
  seconds: number;
  /** What the kernel printed. */
  console: string;
}

/** What the repository's own checks need of it, beside node_modules. */
const sources = ["package.json", "plugin", "bpf", "native", "e2e", "scripts", "conflist"];
/** Packages that nothing in the machine runs. */
const unused =
  /^(\.bin|\.cache|@biomejs|@esbuild|@typescript|@grpc|esbuild|typescript|cmake-js|@types|node-linux-\w+)$/;

/** Modules by name; those that a kernel has inside, or not at all, are passed over. */
const modules = [
  ...["virtio_pci", "virtio_blk", "ext4", "sch_ingress", "cls_bpf"],
  ...["veth", "bridge", "dummy", "ipvlan", "8021q"],
];

/** A disk image, ext4, with this repository at the place it has here. `compilers`: the folder of compiler.sh's answers. */
export function buildDisk(folder: string, machine: Machine, compilers: string): string {
  const tree = join(folder, "disk");
  for (const path of ["proc", "sys", "dev", "tmp", "run", "root", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"])
    mkdirSync(join(tree, path), { recursive: true });
  for (const path of ["bin", "sbin", "lib", "lib64"]) symlinkSync(`usr/${path}`, join(tree, path));
  machine.copyTools(tree);
  // A chroot has no busybox links of its own, and tests call a tool by its name.
  for (const applet of run("/bin/busybox", "--list").split("\n").filter(Boolean)) {
    const link = join(tree, "usr/bin", applet);
    if (!existsSync(link) && !existsSync(join(tree, "usr/sbin", applet))) symlinkSync("busybox", link);
  }

  const { target } = machine;
  const home = join(tree, root);
  mkdirSync(home, { recursive: true });
  for (const name of sources)
    cpSync(join(root, name), join(home, name), {
      recursive: true,
      filter: (path) => path !== join(root, "native/build") && !path.endsWith(".log"),
    });
  cpSync(join(root, target.dist), join(home, "dist"), { recursive: true });
  mkdirSync(join(home, "native/build/Release"), { recursive: true });
  copyFileSync(join(root, target.native, "Release/remora.node"), join(home, "native/build/Release/remora.node"));
  cpSync(join(root, "node_modules"), join(home, "node_modules"), {
    recursive: true,
    filter: (path) => !unused.test(path.slice(join(root, "node_modules/").length)),
  });
  mkdirSync(join(home, "node_modules/.bin"), { recursive: true });
  copyFileSync(resolve(root, target.node()), join(home, "node_modules/.bin/node"));

  cpSync(compilers, join(tree, "compilers"), { recursive: true });
  for (const answer of readdirSync(join(tree, "compilers/answers"))) {
    const [foreign, output] = ["foreign", "output"].map((name) => join(tree, "compilers/answers", answer, name));
    if (foreign && output && existsSync(foreign)) renameSync(foreign, output);
  }
  copyFileSync(join(import.meta.dirname, "check.sh"), join(tree, "run-check.sh"));
  chmodSync(join(tree, "run-check.sh"), 0o755);
  writeFileSync(join(tree, "root-of-repository"), `${root}\n`);
  const image = join(folder, "disk.ext4");
  // No journal and no checksums: modules that the kernels would have to load for them.
  run("/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-d", tree, image, "1500M");
  return image;
}

/** An initramfs (cpio, newc) for the kernel, that runs the checks given: seconds each may take, and a file to run. */
export function buildInitramfs(
  folder: string,
  machine: Machine,
  kernel: Kernel,
  checks: { file: string; limit: number }[],
): string {
  const tree = join(folder, `initramfs-${kernel.release}`);
  for (const path of ["bin", "modules"]) mkdirSync(join(tree, path), { recursive: true });
  copyFileSync(machine.busybox(), join(tree, "bin/busybox"));
  copyFileSync(join(import.meta.dirname, "init.sh"), join(tree, "init"));
  chmodSync(join(tree, "init"), 0o755);
  const order = new Set<string>();
  for (const name of modules)
    for (const path of modulePaths(kernel, name)) {
      const file = basename(path).replace(/\.(xz|zst)$/, "");
      if (order.has(file)) continue;
      order.add(file);
      const target = join(tree, "modules", file);
      if (path.endsWith(".ko")) copyFileSync(path, target);
      else run("sh", "-c", '"$0" -dc "$1" > "$2"', path.endsWith(".xz") ? "xz" : "zstd", path, target);
    }
  writeFileSync(join(tree, "modules/order"), [...order].map((file) => `${file}\n`).join(""));
  writeFileSync(join(tree, "report"), `/dev/${machine.report}\n`);
  writeFileSync(join(tree, "checks"), checks.map(({ limit, file }) => `${limit} ${file}\n`).join(""));
  const archive = `${tree}.cpio`;
  run("sh", "-c", 'cd "$0" && find . | busybox cpio -o -H newc > "$1" 2>/dev/null', tree, archive);
  return archive;
}

/** The module's file after those it depends on, by modules.dep; none where the kernel has it inside or not at all. */
function modulePaths(kernel: Kernel, name: string): string[] {
  const folder = join(kernel.root, "lib/modules", kernel.release);
  const lines = readFileSync(join(folder, "modules.dep"), "utf8").split("\n");
  const line = lines.find((line) => new RegExp(`/${name}\\.ko(\\.\\w+)?:`).test(line));
  if (line === undefined) return [];
  const [path = "", ...needed] = line.replace(":", "").trim().split(/\s+/);
  // The file names what is needed from the nearest to the furthest.
  return [...needed.reverse(), path].map((path) => join(folder, path));
}

export interface BootOptions {
  /** Seconds until it is switched off. */
  limit: number;
  processors: number;
  /** Is told of each file's end. */
  progress(line: string): void;
}

/** Boots it and waits until it has switched itself off, or the limit is over. */
export async function boot(
  folder: string,
  machine: Machine,
  kernel: Kernel,
  disk: string,
  initramfs: string,
  { limit, processors, progress }: BootOptions,
): Promise<Outcome> {
  const log = join(folder, `console-${kernel.release}`);
  const started = performance.now();
  const qemu = spawn(
    "setpriv",
    [
      // It does not outlive this process, however that ends.
      ...["--pdeathsig", "KILL", ...machine.qemu],
      ...["-accel", "tcg,thread=multi", "-smp", `${processors}`, "-m", "1536"],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ...["-kernel", kernel.image, "-initrd", initramfs],
      ...["-append", `console=${machine.console} loglevel=4 panic=-1 mitigations=off nokaslr`],
      ...["-drive", `file=${disk},format=raw,if=virtio,snapshot=on`],
      ...["-serial", `file:${log}`, ...machine.reportDevice],
    ],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  const outcome: Outcome = { release: undefined, ended: [], problems: [], seconds: 0, console: "" };
  let complaint = "";
  qemu.stderr.on("data", (data) => {
    complaint += data;
  });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    qemu.kill("SIGKILL");
  }, limit * 1000);
  const exited = new Promise<number | null>((resolve, reject) => {
    qemu.on("error", reject);
    qemu.on("exit", resolve);
  });
  // Nobody waits for it yet, and a QEMU that is not there fails at once.
  exited.catch(() => undefined);

  let done = false;
  let running: string | undefined;
  let lines: string[] = [];
  for await (const line of createInterface({ input: qemu.stdout })) {
    const [, word, rest = ""] = /^@@(\w+) ?(.*)$/.exec(line.replace(/\r$/, "")) ?? [];
    if (word === "booted") outcome.release = rest;
    else if (word === "problem") outcome.problems.push(rest);
    else if (word === "begin") {
      running = rest;
      lines = [];
    } else if (word === "end") {
      const [file = "", status, seconds] = rest.split(" ");
      outcome.ended.push({ file, status: Number(status), seconds: Number(seconds), output: `${lines.join("\n")}\n` });
      progress(`${kernel.release}: ${file} ${status === "0" ? "ended" : `ended with ${status}`}, ${seconds} s`);
      running = undefined;
    } else if (word === "done") done = true;
    else lines.push(line.replace(/\r$/, ""));
  }
  const status = await exited.finally(() => clearTimeout(timer));
  outcome.seconds = (performance.now() - started) / 1000;
  outcome.console = existsSync(log) ? readFileSync(log, "utf8") : "";
  const where = running === undefined ? (outcome.release ? "between checks" : "before it was up") : `in ${running}`;
  if (timedOut) outcome.problems.push(`took longer than ${limit} s, ended ${where}`);
  else if (!done) outcome.problems.push(`stopped ${where} (QEMU: status ${status}) ${complaint.trim()}`);
  if (/Kernel panic|BUG:|Oops:|WARNING:/.test(outcome.console))
    outcome.problems.push("the kernel complained: see its console");
  return outcome;
}
