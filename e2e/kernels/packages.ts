// SPDX-License-Identifier: Apache-2.0
/** Debian's kernels, by name: what `linux-image-cloud-ARCHITECTURE` of a suite means today, unpacked in a cache (see debian.ts). */
import { existsSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder, newest, type Suite } from "../lib/debian.ts";
import { run } from "../lib/scratch.ts";

export interface Kernel {
  /** As `uname -r` will say it. */
  release: string;
  image: string;
  /** A folder with `lib/modules/RELEASE`, as modprobe's `-d` takes it. */
  root: string;
}

/** The packages a kernel is spread over; the newest have the image and the modules apart. */
const parts = /^linux-(image|binary|modules)-\d\S*-cloud-\w+$/;

/** The newest kernel of a suite for machines of an architecture, as Debian calls it. A suite that cannot be reached is answered from the cache, if it was there before. */
export function fetchKernel(suite: string, architecture: string): Kernel {
  const cache = join(cacheFolder("kernels"), architecture === "amd64" ? suite : `${suite}-${architecture}`);
  const root = newest(cache, suite, (found) => findKernel(found, `linux-image-cloud-${architecture}`), architecture);
  const [release] = readdirSync(join(root, "lib/modules"));
  if (!release) throw new Error(`${root} holds no kernel modules`);
  return { release, image: join(root, "boot", `vmlinuz-${release}`), root };
}

/** By the image package's name. */
function findKernel(suite: Suite, metaPackage: string): ReturnType<Parameters<typeof newest>[2]> {
  const needed = dependencies(metaPackage, (name) => suite.apt("apt-cache", "depends", name));
  const image = needed.find((name) => name.startsWith("linux-image-"));
  if (!image) throw new Error(`${metaPackage} of ${suite.name} depends on no kernel image`);
  const make = (folder: string): void => {
    suite.unpack(folder, needed);
    // Since Debian 13 packages name /usr/lib; where kernels put their modules and images has moved as well.
    if (!existsSync(join(folder, "lib"))) symlinkSync("usr/lib", join(folder, "lib"));
    for (const release of readdirSync(join(folder, "lib/modules"))) {
      const beside = join(folder, "lib/modules", release, "vmlinuz");
      const booted = join(folder, "boot", `vmlinuz-${release}`);
      if (!existsSync(booted) && existsSync(beside)) {
        mkdirSync(join(folder, "boot"), { recursive: true });
        symlinkSync(join("../lib/modules", release, "vmlinuz"), booted);
      }
      run("depmod", "-b", folder, release);
    }
  };
  return { name: image, make };
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
