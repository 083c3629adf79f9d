// SPDX-License-Identifier: Apache-2.0
/**
 * Debian's kernels, by name: what `linux-image-cloud-amd64` of a suite means today is downloaded from the mirror of the
 * machine's own apt, and unpacked in a cache outside the repository. Nothing is installed, and apt's own state stays
 * as it is. Downloads are verified by apt against Debian's archive keys.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { run } from "../lib/scratch.ts";

export interface Kernel {
  /** As `uname -r` will say it. */
  release: string;
  image: string;
  /** A folder with `lib/modules/RELEASE`, as modprobe's `-d` takes it. */
  root: string;
}

const metaPackage = "linux-image-cloud-amd64";
/** The packages a kernel is spread over; the newest have the image and the modules apart. */
const parts = /^linux-(image|binary|modules)-\d\S*-cloud-amd64$/;
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
/** How old a suite's index may be, in milliseconds, before it is asked for again. */
const fresh = 24 * 3600_000;

/** `/var/cache/remora/kernels`, or the user's own cache where that cannot be written. */
function cacheFolder(): string {
  for (const folder of ["/var/cache/remora/kernels", join(homedir(), ".cache/remora/kernels")])
    try {
      mkdirSync(folder, { recursive: true });
      return folder;
    } catch {
      // the next one
    }
  throw new Error("no folder for the kernels: neither /var/cache nor the home folder can be written");
}

/** The newest kernel of a suite. A suite that cannot be reached is answered from the cache, if it was there before. */
export function fetchKernel(suite: string): Kernel {
  const cache = join(cacheFolder(), suite);
  const newest = join(cache, "newest");
  const age = existsSync(newest) ? Date.now() - Number(readFileSync(newest, "utf8").split(" ")[1]) : Infinity;
  if (age > fresh)
    try {
      writeFileSync(newest, `${download(suite, cache)} ${Date.now()}`);
    } catch (error) {
      if (age === Infinity) throw error;
      console.log(`${suite}: ${(error as Error).message.split("\n")[0]}; the kernel fetched before will do`);
    }
  const root = join(cache, readFileSync(newest, "utf8").split(" ")[0] as string);
  const [release] = readdirSync(join(root, "lib/modules"));
  if (!release) throw new Error(`${root} holds no kernel modules`);
  return { release, image: join(root, "boot", `vmlinuz-${release}`), root };
}

/** Returns the folder's name in the cache: the image package's name. */
function download(suite: string, cache: string): string {
  const apt = join(cache, "apt");
  for (const folder of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(apt, folder), { recursive: true });
  writeFileSync(join(apt, "sources.list"), `deb [signed-by=${keyring}] ${mirror()} ${suite} main\n`);
  const options = [
    `Dir::Etc::sourcelist=${apt}/sources.list`,
    "Dir::Etc::sourceparts=-",
    `Dir::State::lists=${apt}/lists`,
    `Dir::Cache=${apt}/cache`,
    "APT::Sandbox::User=root",
    "Acquire::Retries=3",
    "Acquire::Languages=none",
  ].flatMap((option) => ["-o", option]);
  run("apt-get", ...options, "-q", "update");
  const needed = dependencies(metaPackage, (name) => run("apt-cache", ...options, "depends", name));
  const image = needed.find((name) => name.startsWith("linux-image-"));
  if (!image) throw new Error(`${metaPackage} of ${suite} depends on no kernel image`);

  if (existsSync(join(cache, image))) return image;
  console.log(`${suite}: fetching ${image}`);
  const work = join(cache, "new");
  rmSync(work, { recursive: true, force: true });
  mkdirSync(join(work, "packages"), { recursive: true });
  run("env", "-C", join(work, "packages"), "apt-get", ...options, "-q", "download", ...needed);
  for (const file of readdirSync(join(work, "packages"))) run("dpkg-deb", "-x", join(work, "packages", file), work);
  rmSync(join(work, "packages"), { recursive: true });
  // Since Debian 13 packages name /usr/lib; where kernels put their modules and images has moved as well.
  if (!existsSync(join(work, "lib"))) symlinkSync("usr/lib", join(work, "lib"));
  for (const release of readdirSync(join(work, "lib/modules"))) {
    const beside = join(work, "lib/modules", release, "vmlinuz");
    const booted = join(work, "boot", `vmlinuz-${release}`);
    if (!existsSync(booted) && existsSync(beside)) {
      mkdirSync(join(work, "boot"), { recursive: true });
      symlinkSync(join("../lib/modules", release, "vmlinuz"), booted);
    }
    run("depmod", "-b", work, release);
  }
  renameSync(work, join(cache, image));
  return image;
}

/** The packages of a kernel: all that `name` depends on, directly or not, that are parts of one. */
function dependencies(name: string, depends: (name: string) => string): string[] {
  const found = new Set<string>();
  const visit = (name: string): void => {
    for (const [, other = ""] of depends(name).matchAll(/^ *\|?Depends: (\S+)/gm)) {
      if (!parts.test(other) || found.has(other)) continue;
      found.add(other);
      visit(other);
    }
  };
  visit(name);
  return [...found];
}

/** The first Debian mirror of the machine's own apt sources, deb822 or one-line. `DEBIAN_MIRROR` names another. */
function mirror(): string {
  const folder = "/etc/apt/sources.list.d";
  const files = [
    ...(existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []),
    "/etc/apt/sources.list",
  ];
  const texts = files.filter((file) => existsSync(file)).map((file) => readFileSync(file, "utf8"));
  const addresses = texts.flatMap((text) =>
    [...text.matchAll(/^(?:URIs:|deb\s+(?:\[[^\]]*\]\s*)?)\s*(\S+:\/\/\S+)/gm)].map((match) => match[1] as string),
  );
  const found = process.env.DEBIAN_MIRROR ?? addresses.find((address) => /\/debian\/?$/.test(address));
  if (!found) throw new Error("no Debian mirror in apt's sources: set DEBIAN_MIRROR");
  return found.replace(/\/$/, "");
}
