// SPDX-License-Identifier: Apache-2.0
/**
 * Debian packages of any suite, by name, without installing them: downloaded from the mirror of the machine's own apt
 * and unpacked in a cache outside the repository. apt verifies them against Debian's archive keys; its own state and the
 * machine's packages stay as they are. Runs side by side do not meet: each works in a folder of its own, and what is
 * ready is put in place by one rename.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  lstatSync,
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
import { pause } from "./pause.ts";

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
/** How old an answer of a suite may be, in milliseconds, before it is asked for again. */
const fresh = 24 * 3600_000;
/** Seconds that one apt command may take: a busy machine, a slow mirror. */
const limit = 600;

/** apt on one suite. */
export interface Suite {
  name: string;
  /** Runs a program of apt's and returns its stdout. Throws with what it said. */
  apt(program: "apt-get" | "apt-cache", ...args: string[]): string;
  /** Downloads packages of the suite and unpacks them, as `dpkg -x` does, below the folder. */
  unpack(folder: string, packages: string[]): void;
}

/** `/var/cache/remora/NAME`, or the user's own cache where that cannot be written. */
export function cacheFolder(name: string): string {
  for (const folder of [join("/var/cache/remora", name), join(homedir(), ".cache/remora", name)])
    try {
      mkdirSync(folder, { recursive: true });
      return folder;
    } catch {
      // the next one
    }
  throw new Error(`no folder for ${name}: neither /var/cache nor the home folder can be written`);
}

/**
 * The newest of something that a suite has, as a folder below `cache`. `find` says how what is there today is called, and
 * how to make it in an empty folder; it is asked once a day. A suite that cannot be reached is answered from the cache, if
 * that was filled before. `architecture`, as Debian calls it, is the machine's own where it is left out.
 */
export function newest(
  cache: string,
  suite: string,
  find: (suite: Suite) => { name: string; make(folder: string): void },
  architecture?: string,
): string {
  const note = join(cache, "newest");
  const [known = "", asked = "0"] = existsSync(note) ? readFileSync(note, "utf8").split(" ") : [];
  const usable = existsSync(note) && existsSync(join(cache, known));
  if (usable && Date.now() - Number(asked) < fresh) return join(cache, known);
  mkdirSync(cache, { recursive: true });
  sweep(cache);
  const work = join(cache, `new-${process.pid}`);
  try {
    mkdirSync(work);
    const { name, make } = find(openSuite(suite, join(work, "apt"), architecture));
    if (!existsSync(join(cache, name))) {
      console.log(`${suite}: fetching ${name}`);
      mkdirSync(join(work, name));
      make(join(work, name));
      place(join(work, name), join(cache, name));
    }
    writeFileSync(join(work, "newest"), `${name} ${Date.now()}`);
    renameSync(join(work, "newest"), note);
    return join(cache, name);
  } catch (error) {
    if (!usable) throw error;
    console.log(`${suite}: ${(error as Error).message.split("\n")[0]}; ${known}, fetched before, will do`);
    return join(cache, known);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Somebody else may have been quicker, and what they put there is the same. */
function place(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!existsSync(to)) throw error;
  }
}

/** Work of processes that were killed. */
function sweep(cache: string): void {
  for (const name of readdirSync(cache)) {
    const owner = /^new-(\d+)$/.exec(name)?.[1];
    if (owner && !existsSync(`/proc/${owner}`)) rmSync(join(cache, name), { recursive: true, force: true });
  }
}

/**
 * A folder that is laid out as the root of a machine of that architecture which has the packages and all that they
 * depend on. Nothing in it has been configured: no package's script has run.
 */
export function fetchRoot(cache: string, suite: string, architecture: string, packages: readonly string[]): string {
  return newest(
    cache,
    suite,
    ({ apt, unpack }) => {
      const simulated = apt("apt-get", "--simulate", "install", "--no-install-recommends", ...packages);
      const all = [...simulated.matchAll(/^Inst (\S+) \((\S+)/gm)].map(([, name = "", version = ""]) => ({
        name,
        version,
      }));
      const digest = createHash("sha256").update(JSON.stringify(all)).digest("hex").slice(0, 16);
      const make = (folder: string): void => {
        unpack(
          folder,
          all.map(({ name }) => name),
        );
        mergeUsr(folder);
      };
      return { name: `${suite}-${architecture}-${digest}`, make };
    },
    architecture,
  );
}

/** Up to Debian 12 packages still name /bin, /sbin and /lib, which are links on every machine. */
function mergeUsr(root: string): void {
  for (const name of ["bin", "sbin", "lib"]) {
    const [old, merged] = [join(root, name), join(root, "usr", name)];
    if (lstatSync(old, { throwIfNoEntry: false })?.isDirectory()) {
      cpSync(old, merged, { recursive: true, verbatimSymlinks: true });
      rmSync(old, { recursive: true });
    }
    if (!existsSync(old)) symlinkSync(`usr/${name}`, old);
  }
}

/** The suite that this machine runs, which must be Debian's. */
export function ownSuite(): string {
  const release = readFileSync("/etc/os-release", "utf8");
  const suite = /^VERSION_CODENAME=(\w+)$/m.exec(release)?.[1];
  if (!/^ID=debian$/m.test(release) || !suite) throw new Error("this machine runs no release of Debian");
  return suite;
}

/** `state` is where apt keeps what it knows of the suite. */
function openSuite(name: string, state: string, architecture?: string): Suite {
  for (const folder of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(state, folder), { recursive: true });
  writeFileSync(join(state, "sources.list"), `deb [signed-by=${keyring}] ${mirror()} ${name} main\n`);
  writeFileSync(join(state, "status"), "");
  const options = [
    `Dir::Etc::sourcelist=${state}/sources.list`,
    "Dir::Etc::sourceparts=-",
    `Dir::State::lists=${state}/lists`,
    `Dir::State::status=${state}/status`,
    `Dir::Cache=${state}/cache`,
    "APT::Sandbox::User=root",
    // Else an update that reached nobody is a success.
    "APT::Update::Error-Mode=any",
    "Acquire::Retries=2",
    "Acquire::Languages=none",
    ...(architecture ? [`APT::Architecture=${architecture}`, `APT::Architectures=${architecture}`] : []),
    // A machine with a software centre would fetch its catalogue as well.
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
  ].flatMap((option) => ["-o", option]);
  const apt: Suite["apt"] = (program, ...args) => runIn("/", program, ...options, "-q", ...args);
  apt("apt-get", "update");
  return {
    name,
    apt,
    unpack(folder, packages) {
      const archives = join(state, "packages");
      mkdirSync(archives);
      const download = () => runIn(archives, "apt-get", ...options, "-q", "download", ...packages);
      try {
        download();
      } catch {
        // A mirror that is just being brought up to date may list what it does not hold: it gets time to catch up.
        pause(10_000);
        apt("apt-get", "update");
        download();
      }
      for (const file of readdirSync(archives)) runIn("/", "dpkg-deb", "-x", join(archives, file), folder);
      rmSync(archives, { recursive: true });
    },
  };
}

/** As `run` of scratch.ts, elsewhere and with more patience. */
function runIn(cwd: string, command: string, ...args: string[]): string {
  const env = { ...process.env, LC_ALL: "C" };
  const child = spawnSync(command, args, { cwd, env, encoding: "utf8", maxBuffer: 64 << 20, timeout: limit * 1000 });
  if (child.error) throw child.error;
  if (child.status === 0) return child.stdout;
  const shown = args.filter((arg) => arg !== "-o" && !arg.includes("::"));
  throw new Error(`${[command, ...shown].join(" ")}: exit ${child.status ?? child.signal}: ${child.stderr.trim()}`);
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
