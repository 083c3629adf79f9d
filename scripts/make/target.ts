// SPDX-License-Identifier: Apache-2.0
/** The machine that is built for: this one, or one of another architecture by Debian's cross compiler. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { cacheFolder, fetchRoot, ownSuite } from "../../e2e/lib/debian.ts";
import { command } from "./command.ts";
import { BuildError } from "./step.ts";

/** As Node names them, with what GNU calls the machine, Debian the packages, and musl its specs. */
const architectures = {
  x64: { triplet: "x86_64-linux-gnu", debian: "amd64", musl: "x86_64-linux-musl" },
  arm64: { triplet: "aarch64-linux-gnu", debian: "arm64", musl: "aarch64-linux-musl" },
} as const;
export type Architecture = keyof typeof architectures;

export interface Target {
  architecture: Architecture;
  /** The installation tree, where the native parts are built, and where stamps and scratch are kept: from the top of the repository. */
  dist: string;
  native: string;
  work: string;
  /** Whether what is built runs on this machine. */
  runsHere: boolean;
  /** What native/build.sh is told. */
  buildArguments: string[];
  /** The official Node binary of the lock file's version: an absolute path, or from the top of the repository. May fetch it. */
  node(): string;
  /** A tool of the compiler: `gcc`, `strip`. */
  tool(name: string): string;
  /** A compiler that takes gcc's arguments and links with musl. */
  musl(): [name: string, ...args: string[]];
  /** The closure of what the files link to, the dynamic loader included: paths of files here. */
  libraries(files: string[]): string[];
}

const own = process.arch as Architecture;

export function targetOf(root: string, architecture: string = own): Target {
  if (!Object.hasOwn(architectures, architecture))
    throw new BuildError(`no architecture "${architecture}"; there are ${Object.keys(architectures).join(" and ")}`);
  return architecture === own ? thisMachine(root) : otherMachine(root, architecture as Architecture);
}

function thisMachine(root: string): Target {
  return {
    architecture: own,
    dist: "dist",
    native: "native/build",
    work: ".cache/build",
    runsHere: true,
    buildArguments: [],
    node: () => `node_modules/node-linux-${own}/bin/node`,
    tool: (name) => name,
    musl: () => ["musl-gcc"],
    libraries: (files) => linkedHere(root, files),
  };
}

/**
 * Nothing of the other architecture is installed here: its C libraries come from Debian packages of this machine's own
 * suite, and its Node from the package that the lock file pins; both are kept in a cache outside the repository.
 */
function otherMachine(root: string, architecture: Architecture): Target {
  const { triplet, debian } = architectures[architecture];
  const work = `.cache/build/${architecture}`;
  const tool = (name: string): string => `${triplet}-${name}`;
  return {
    architecture,
    dist: `dist-${architecture}`,
    native: `native/build/${triplet}`,
    work,
    runsHere: false,
    buildArguments: [triplet],
    node: () => fetchNode(root, architecture),
    tool,
    musl: () => [tool("gcc"), "-specs", muslSpecs(fetchSysroot(debian), architecture, join(root, work))],
    libraries: (files) => linkedThere(root, tool("readelf"), files, fetchSysroot(debian), triplet),
  };
}

/** What the runtime links to, and musl for the launcher. The machine's own suite: the cross compiler's libraries are of that age. */
function fetchSysroot(debian: string): string {
  const packages = ["libc6", "libgcc-s1", "libstdc++6", "libatomic1", "musl-dev"];
  return fetchRoot(join(cacheFolder("sysroot"), debian), ownSuite(), debian, packages);
}

/** The specs that musl-gcc is made of, with the places where its files lie here. Returns their path. */
function muslSpecs(sysroot: string, architecture: Architecture, work: string): string {
  const specs = join(work, "musl-gcc.specs");
  const text = readFileSync(join(sysroot, "usr/lib", architectures[architecture].musl, "musl-gcc.specs"), "utf8");
  mkdirSync(work, { recursive: true });
  writeFileSync(specs, text.replaceAll("/usr/", `${sysroot}/usr/`));
  return specs;
}

/** npm installs no package of another architecture, but downloads one; the lock file says what its bytes must be. */
function fetchNode(root: string, architecture: Architecture): string {
  const name = `node-linux-${architecture}`;
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const { version, integrity } = lock.packages[`node_modules/${name}`] as { version: string; integrity: string };
  const cache = cacheFolder("node");
  const ready = join(cache, `${name}-${version}-${createHash("sha256").update(integrity).digest("hex").slice(0, 16)}`);
  if (!existsSync(ready)) {
    const fresh = mkdtempSync(join(cache, "new-"));
    try {
      const archive = join(fresh, command("npm", ["pack", "--silent", `${name}@${version}`], fresh).trim());
      requireIntegrity(archive, integrity, `${name} ${version}`);
      command("tar", ["-xf", archive, "-C", fresh, "package/bin/node", "package/LICENSE"], root);
      renameSync(join(fresh, "package"), ready);
    } finally {
      rmSync(fresh, { recursive: true });
    }
  }
  return join(ready, "bin/node");
}

/** Refuses a file whose bytes are not what the lock file says (`sha512-`, base64). */
export function requireIntegrity(path: string, integrity: string, name: string): void {
  const found = `sha512-${createHash("sha512").update(readFileSync(path)).digest("base64")}`;
  if (found !== integrity)
    throw new BuildError(`${name} is not the one that package-lock.json pins: ${found}, not ${integrity}`);
}

/** As this machine's own loader finds them. */
export function linkedHere(root: string, files: string[]): string[] {
  const found = new Set<string>();
  for (const file of files)
    for (const line of command("ldd", [file], root).split("\n")) {
      if (line.includes("not found")) throw new BuildError(`${file} needs a library that is not here: ${line.trim()}`);
      const path = /(?:=> )?(\/\S+) \(0x/.exec(line)?.[1];
      if (path) found.add(path);
    }
  return [...found].sort();
}

/** As a loader of Debian's would find them in the sysroot. */
export function linkedThere(
  root: string,
  readelf: string,
  files: string[],
  sysroot: string,
  triplet: string,
): string[] {
  const folders = [`usr/lib/${triplet}`, "usr/lib"].map((folder) => join(sysroot, folder));
  const found = new Set<string>();
  const visit = (file: string): void => {
    const text = command(readelf, ["--dynamic", "--program-headers", "--wide", file], root);
    const names = [...text.matchAll(/\(NEEDED\).*\[(.*)\]|interpreter: .*\/(.*)\]/g)].map(
      ([, needed, loader]) => needed ?? loader,
    );
    for (const name of names) {
      const path = folders.map((folder) => join(folder, name as string)).find((path) => existsSync(path));
      if (!path) throw new BuildError(`${file} needs ${name}, which is not in ${sysroot}`);
      if (found.has(path)) continue;
      found.add(path);
      visit(path);
    }
  };
  for (const file of files) visit(resolve(root, file));
  return [...found].sort();
}
