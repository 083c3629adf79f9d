// SPDX-License-Identifier: Apache-2.0
/** What stands in the node's folders: the CNI configuration that lists Remora, and the executable it names. */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { readNetworkName } from "../../cni/request.ts";
import { readConfig } from "../../cni/schema.ts";
import { isSupported, readVersion } from "../../cni/version.ts";
import { RemoraError } from "../../errors.ts";
import type { NodeConfig } from "../../model.ts";
import { type Check, reasonOf } from "./check.ts";

/** Remora's entry as it stands in the file that the runtime takes: what says where to look, also where the rest is wrong. */
export interface NodeEntry {
  file: string;
  programDirs?: string[];
  bpffs?: string;
  hook?: "tcx" | "clsact";
}

/** Extensions that libcni's ConfFiles takes, which containerd calls. */
const configurationNames = /\.(conf|conflist|json)$/;
const annotationsCapability = "io.kubernetes.cri.pod-annotations";

/**
 * The lexically first valid file of the CNI folder is the one that the runtime takes; Remora has to stand in it, with an
 * entry that an ADD takes.
 *
 * @param root the folder that stands for `/`; messages speak of the path without it.
 */
export function checkConfiguration(root: string, folder: string): Configured {
  const check = "CNI configuration";
  let names: string[];
  try {
    names = readdirSync(join(root, folder))
      .filter((name) => configurationNames.test(name))
      .sort();
  } catch {
    names = [];
  }
  const broken: Check[] = [];
  for (const name of names) {
    const file = join(folder, name);
    try {
      const configuration: unknown = JSON.parse(readFileSync(join(root, file), "utf8"));
      return withBroken(broken, entryOf(file, pluginsOf(configuration), isFields(configuration) ? configuration : {}));
    } catch (error) {
      broken.push({
        check,
        state: "note",
        found: `${file} is not valid, the runtime passes it by: ${reasonOf(error)}`,
      });
    }
  }
  const found = `no valid file in ${folder}`;
  const remedy = "install the primary CNI plugin; another folder is named with --cni-conf DIR";
  return { checks: [...broken, { check, state: "note", found, remedy }] };
}

/** `config` is there where the entry is one that an ADD takes. */
interface Configured {
  checks: Check[];
  entry?: NodeEntry;
  config?: NodeConfig;
}

function withBroken(broken: Check[], result: Configured): Configured {
  return { ...result, checks: [...broken, ...result.checks] };
}

function entryOf(file: string, plugins: Fields[], list: Fields): Configured {
  const check = "CNI configuration";
  const at = plugins.findIndex(({ type }) => type === "remora");
  const own = plugins[at];
  if (own === undefined) {
    const remedy = file.endsWith(".conflist")
      ? `add {"type": "remora", "capabilities": {"${annotationsCapability}": true}} behind the primary plugin`
      : 'make it a .conflist: {"cniVersion", "name", "plugins": [...]}, with remora behind the primary plugin';
    return { checks: [{ check, state: "note", found: `${file} does not list remora`, remedy }] };
  }
  const entry: NodeEntry = { file };
  if (isTexts(own.programDirs)) entry.programDirs = own.programDirs;
  if (typeof own.bpffs === "string") entry.bpffs = own.bpffs;
  if (own.hook === "tcx" || own.hook === "clsact") entry.hook = own.hook;
  if (at === 0) {
    const remedy = "list it behind the plugin that makes the interface: an ADD without prevResult fails";
    return { entry, checks: [{ check, state: "missing", found: `${file} lists remora first`, remedy }] };
  }
  const times = plugins.filter(({ type }) => type === "remora").length;
  if (times > 1) {
    // They are the same attachment: network, container and interface name it.
    const found = `${file} lists remora ${times} times, and the last one's chain takes the place of the others'`;
    const remedy = "make one entry of them, with all that is to run in its chain";
    return { entry, checks: [{ check, state: "missing", found, remedy }] };
  }
  let config: NodeConfig;
  let wrong = "the list";
  try {
    const network = readList(list);
    wrong = "that entry";
    config = readConfig(own, network);
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    const remedy = `mend ${wrong}; until then the ADD of every pod fails`;
    return { entry, checks: [{ check, state: "missing", found: `${file}: ${error.message}`, remedy }] };
  }
  const capabilities = own.capabilities;
  if (!isFields(capabilities) || capabilities[annotationsCapability] !== true) {
    const found = `${file} lists remora, without the capability that brings pod annotations`;
    const remedy = `add "capabilities": {"${annotationsCapability}": true} to its entry`;
    return { entry, config, checks: [{ check, state: "note", found, remedy }] };
  }
  return { entry, config, checks: [{ check, state: "ok", found: `${file} lists remora` }] };
}

/** What every plugin of a list is told of it. @returns the network's name. @throws RemoraError as an ADD does. */
function readList({ name, cniVersion, cniVersions }: Fields): string {
  const network = readNetworkName(name);
  // Where the list offers several, the runtime chooses.
  if (!Array.isArray(cniVersions) || !cniVersions.some(isSupported)) readVersion(cniVersion);
  return network;
}

/** The executable that the runtime calls. It matters once a configuration lists Remora: pods cannot start without it. */
export function checkLauncher(root: string, folder: string, listed: boolean): Check {
  const check = "CNI executable";
  const path = join(folder, "remora");
  const state = listed ? "missing" : "note";
  const remedy = `copy the launcher there, and runtime/ to /opt/remora/; another folder is named with --cni-bin DIR`;
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  if (stat === undefined) return { check, state, found: `${path} is not there`, remedy };
  if (!stat.isFile() || (stat.mode & 0o111) === 0) {
    return { check, state, found: `${path} is not executable`, remedy: `chmod 755 ${path}` };
  }
  const runtimes = [join(dirname(path), "runtime"), "/opt/remora/runtime"];
  if (!runtimes.some((runtime) => existsSync(join(root, runtime)))) {
    return { check, state, found: `${path} has no runtime in ${runtimes.join(" or ")}`, remedy };
  }
  return { check, state: "ok", found: path };
}

type Fields = Record<string, unknown>;

function pluginsOf(configuration: unknown): Fields[] {
  if (!isFields(configuration)) throw new Error("it is no JSON object");
  const plugins = configuration.plugins ?? [configuration];
  if (!Array.isArray(plugins) || plugins.length === 0 || !plugins.every(isFields)) {
    throw new Error('its "plugins" is no list of plugins');
  }
  if (plugins.some(({ type }) => typeof type !== "string")) throw new Error('a plugin has no "type"');
  return plugins;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}
