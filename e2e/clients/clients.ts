// SPDX-License-Identifier: Apache-2.0
/**
 * The container runtimes, other than the machine's own, that tests run Remora under: Debian packages of older and newer
 * suites, unpacked in a cache (see debian.ts) and run from there with their suite's runc, CNI plugins and libraries.
 * Nothing is installed: podman's package, for one, enables five services and puts its own network into /etc/cni/net.d,
 * where a machine's other runtimes would find it.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder, newest, type Suite } from "../lib/debian.ts";

/** By the name that people and `REMORA_TEST_CLIENT` give it. */
export const clients = {
  "containerd-1.7": { suite: "trixie", packages: ["containerd", "runc"], cniVersion: "1.0.0" },
  "containerd-2": { suite: "forky", packages: ["containerd", "runc"], cniVersion: "1.1.0" },
  "podman-4.3": { suite: "bookworm", packages: ["podman", "conmon", "runc"], cniVersion: "1.0.0" },
} as const;
export type ClientName = keyof typeof clients;

/** A container runtime's files, ready to run. */
export interface Client {
  /** By package: `{ containerd: "2.1.9+ds1-5", ... }`. */
  versions: Record<string, string>;
  /** The folder of its CNI plugins. */
  plugins: string;
  /** The newest version of the CNI specification that both it and its plugins know. */
  cniVersion: string;
  /** A file of the client's, as an absolute path. `name`: as its package has it, `usr/bin/conmon`. */
  file(name: string): string;
  /** What goes before a command so that it finds the client's programs and libraries first. */
  environment: string[];
  /** Lines of an fstab: the suite's C library over the machine's, where that is older. All at once, or nothing starts any more. */
  mounts: string[];
}

const plugins = "containernetworking-plugins";

/** Takes a few seconds and some 60 MB of downloads the first time; later asks the suite once a day. */
export function fetchClient(name: ClientName): Client {
  const { suite, packages, cniVersion } = clients[name];
  const folder = newest(join(cacheFolder("clients"), name), suite, (found) => findClient(found, packages));
  const root = join(folder, "root");
  const file = (path: string): string => join(root, path);
  const paths = ["usr/bin", "usr/sbin"].map(file).join(":");
  return {
    versions: JSON.parse(readFileSync(join(folder, "versions.json"), "utf8")),
    plugins: file("usr/lib/cni"),
    cniVersion,
    file,
    environment: [
      "env",
      `PATH=${paths}:${process.env.PATH}:/usr/sbin:/sbin`,
      `LD_LIBRARY_PATH=${libraryFolders(root).join(":")}`,
    ],
    mounts: libraryMounts(join(folder, "libc")),
  };
}

/** What apt would install on an empty machine says which libraries are needed; of it all, those and the named packages. */
function findClient(suite: Suite, named: readonly string[]): ReturnType<Parameters<typeof newest>[2]> {
  const wanted = [...named, plugins];
  const simulated = suite.apt("apt-get", "--simulate", "install", "--no-install-recommends", ...wanted);
  const all = new Map(
    [...simulated.matchAll(/^Inst (\S+) \((\S+)/gm)].map(([, name = "", version = ""]) => [name, version]),
  );
  const libraries = [...all.keys()].filter((name) => /^lib(?!c6$|c-bin$)/.test(name));
  const taken = [...wanted, ...libraries, "libc6"].map((name) => [name, all.get(name)] as const);
  const lacking = taken.filter(([, version]) => version === undefined).map(([name]) => name);
  if (lacking.length > 0) throw new Error(`${suite.name} has no ${lacking.join(", ")}`);
  const digest = createHash("sha256").update(JSON.stringify(taken)).digest("hex").slice(0, 8);
  return {
    name: `${named[0]}-${all.get(named[0] ?? "")}-${digest}`.replaceAll(":", "_"),
    make(folder) {
      for (const each of ["root", "libc"]) mkdirSync(join(folder, each));
      suite.unpack(join(folder, "root"), [...wanted, ...libraries]);
      suite.unpack(join(folder, "libc"), ["libc6"]);
      writeFileSync(join(folder, "versions.json"), JSON.stringify(Object.fromEntries(taken), null, 2));
    },
  };
}

/** Where Debian keeps shared libraries of this machine's architecture, as far as the root has them. */
function libraryFolders(root: string): string[] {
  const triplet = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" }[process.arch as string] ?? "";
  return [join(root, "usr/lib", triplet), join(root, "lib", triplet)].filter((folder) => existsSync(folder));
}

/**
 * A C library's parts, its loader among them, belong together, and the loader's path is part of every program: a newer one
 * can only be had in the old one's place, in a mount namespace of one's own. It serves older programs as well.
 */
function libraryMounts(libc: string): string[] {
  const [folder = ""] = libraryFolders(libc);
  const ours = execFileSync("getconf", ["GNU_LIBC_VERSION"], { encoding: "utf8" });
  const theirs = readFileSync(join(libc, "../versions.json"), "utf8").match(/"libc6": "([^"]*)"/)?.[1] ?? "";
  const [major = 0, minor = 0] = numbers(ours);
  const [otherMajor = 0, otherMinor = 0] = numbers(theirs);
  if (otherMajor < major || (otherMajor === major && otherMinor <= minor)) return [];
  const own = folder.slice(libc.length);
  return readdirSync(folder)
    .filter((name) => /\.so(\.|$)/.test(name) && existsSync(join(own, name)))
    .map((name) => `${join(folder, name)} ${realpathSync(join(own, name))} none bind 0 0`);
}

const numbers = (version: string): number[] => (version.match(/\d+/g) ?? []).slice(0, 2).map(Number);
