// SPDX-License-Identifier: Apache-2.0
/** What differs between virtual machines of one architecture and the other: QEMU, its devices, and where tools come from. */
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type Architecture, type Target, targetOf } from "../../scripts/make/target.ts";
import { cacheFolder, fetchRoot, ownSuite } from "../lib/debian.ts";
import { run } from "../lib/scratch.ts";

const root = resolve(import.meta.dirname, "../..");

export interface Machine {
  /** What is tried out on it. */
  target: Target;
  /** As Debian calls the architecture. */
  debian: string;
  /** QEMU's command, with the options that this machine alone needs. */
  qemu: string[];
  /** The kernel's console, on QEMU's first serial line. */
  console: string;
  /** The device that carries what comes of the checks to QEMU's stdout, and QEMU's options for it. */
  report: string;
  reportDevice: string[];
  /** How many times as long as on x86-64 a check may take. */
  patience: number;
  /** A busybox without libraries. */
  busybox(): string;
  /** Puts the tools that tests and namespaces need, and the libraries of these and of Node, into a root folder. */
  copyTools(tree: string): void;
}

export function machineOf(architecture: Architecture): Machine {
  const target = targetOf(root, architecture);
  const devices = { x64: pc, arm64: virt }[architecture];
  return { target, ...devices, ...(target.runsHere ? ownTools(target) : fetchedTools(devices.debian)) };
}

const pc = {
  debian: "amd64",
  qemu: ["qemu-system-x86_64", "-cpu", "max,la57=off,cx16=off"],
  console: "ttyS0",
  report: "ttyS1",
  reportDevice: ["-serial", "stdio"],
  patience: 1,
};

const virt = {
  debian: "arm64",
  // Pointer authentication by QEMU's default algorithm would take half of the time.
  qemu: ["qemu-system-aarch64", "-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on,sve=off"],
  console: "ttyAMA0",
  report: "ttyS0",
  // This machine has one serial line.
  reportDevice: ["-chardev", "stdio,id=report", "-device", "pci-serial,chardev=report"],
  // The emulation costs about as much, but its runtime brings no code cache (see scripts/make/runtime.ts).
  patience: 2,
};

/** This machine's own, with their libraries. */
function ownTools(target: Target): Pick<Machine, "busybox" | "copyTools"> {
  const tools = [
    ...["/bin/bash", "/bin/busybox", "/bin/mount", "/bin/umount", "/bin/ping", "/usr/sbin/ip", "/usr/sbin/tc"],
    ...["/usr/sbin/bpftool", "/usr/bin/timeout", "/usr/bin/env", "/usr/bin/unshare", "/usr/bin/nsenter"],
    ...["ipvlan", "vlan", "static"].map((plugin) => `/usr/lib/cni/${plugin}`),
  ];
  return {
    busybox: () => "/bin/busybox",
    copyTools(tree) {
      for (const tool of tools) {
        if (!existsSync(tool)) throw new Error(`${tool} is missing on this machine: see scripts/setup.sh`);
        copyInto(tree, tool);
      }
      const libraries = new Set([join(root, target.node()), ...tools].flatMap(librariesOf));
      for (const library of libraries) copyInto(tree, library);
    },
  };
}

/** Packages with the same tools, of this machine's suite, since what is tried out was built against its C library. */
function fetchedTools(debian: string): Pick<Machine, "busybox" | "copyTools"> {
  const packages = [
    ...["bash", "busybox-static", "mount", "util-linux", "coreutils", "iproute2", "iputils-ping", "bpftool"],
    ...["containernetworking-plugins", "libstdc++6", "libatomic1"],
  ];
  let fetched: string | undefined;
  const files = (): string => {
    fetched ??= fetchRoot(join(cacheFolder("kernels"), `tools-${debian}`), ownSuite(), debian, packages);
    return fetched;
  };
  return {
    busybox: () => join(files(), "usr/bin/busybox"),
    copyTools: (tree) => void run("cp", "-a", join(files(), "usr"), join(files(), "etc"), tree),
  };
}

function copyInto(tree: string, path: string): void {
  // /bin, /lib and the like are links into /usr.
  const target = join(tree, path.replace(/^\/(bin|sbin|lib|lib64)\//, "/usr/$1/"));
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(path, target);
}

function librariesOf(path: string): string[] {
  const text = path.endsWith("/busybox") ? "" : run("ldd", path);
  return [...text.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] as string);
}
