// SPDX-License-Identifier: Apache-2.0
/**
 * The one speller of pin paths, and the one guard of the root they live below:
 *
 *     <root>/<network>/<container>:<interface>/
 *         record                                frozen array map: JSON, says what is attached (see record.ts)
 *         record_next                           the record that an ADD or a change is about to put there (see settle.ts)
 *         g<N>/<place>/chain                    PROG_ARRAY with the stages of generation N
 *         g<N>/<place>/counters                 per-CPU counters, a row per position
 *         g<N>/<place>/base                     what earlier generations have counted, a row per position
 *         g<N>/<place>/maps/<position>/<map>
 *         trace/<place>/chain                   stages that report each packet, while somebody traces (see trace.ts)
 *         link_<place>                          the bpf_link of the chain's first stage
 *         filter_<place>                        where there is no bpf_link, but a filter on clsact: a map that describes it
 *         link_next                             one that is about to take over at the host's end (see settle.ts)
 *     <root>/node/<program>/<map>               maps that all pods share
 *     <root>/node/<program>/<map>:kept          an empty folder: the map stays when no pod uses it (see node-maps.ts)
 *
 * Names are readable where they can be and reversible where they must not be readable: bpffs refuses dots, and a name
 * ends at 255 bytes, so that a longer container id is cut and carries a digest; the record then holds the whole one.
 */

import { createHash } from "node:crypto";
import { isAbsolute, normalize } from "node:path/posix";
import { code, RemoraError } from "../errors.ts";
import type { AttachmentId } from "../model.ts";
import { type ChainPlace, chainPlaces } from "./places.ts";

/** NAME_MAX: the longest name of a bpffs file, in bytes. */
const longestName = 255;
/** An interface's name has at most 15 bytes (IFNAMSIZ), each of which can become three. */
const longestInterface = 45;
const longestContainer = longestName - longestInterface - 1;
/** Of a name that does not fit, this much stays readable before `~` and the digest. */
const readablePart = 100;

const plain = /^[A-Za-z0-9_-]$/;

/**
 * A text as a bpffs name: letters, digits, `_` and `-` stand for themselves, every other byte becomes `%xx`. What would
 * be longer than `limit` is cut and told apart by its sha256, behind a `~`.
 */
export function encodeName(text: string, limit: number = longestName): string {
  let encoded = "";
  for (const byte of Buffer.from(text, "utf8")) {
    const character = String.fromCharCode(byte);
    encoded += plain.test(character) ? character : `%${byte.toString(16).padStart(2, "0")}`;
  }
  if (encoded.length <= limit) return encoded;
  return `${encoded.slice(0, readablePart)}~${createHash("sha256").update(text).digest("hex")}`;
}

/** The text behind a name that `encodeName` made; undefined for one it did not make, and for one that was cut. */
export function decodeName(name: string, limit: number = longestName): string | undefined {
  if (name === "" || name.includes("~")) return undefined;
  const bytes: number[] = [];
  for (let i = 0; i < name.length; i++) {
    const character = name.charAt(i);
    if (character !== "%") bytes.push(character.charCodeAt(0));
    else {
      const hex = name.slice(i + 1, i + 3);
      if (!/^[0-9a-f]{2}$/.test(hex)) return undefined;
      bytes.push(Number.parseInt(hex, 16));
      i += 2;
    }
  }
  const text = Buffer.from(bytes).toString("utf8");
  return encodeName(text, limit) === name ? text : undefined;
}

/** The paths of one chain in one generation. */
export interface ChainPins {
  directory: string;
  chain: string;
  counters: string;
  base: string;
  /** The folder of all positions' maps. */
  maps: string;
  mapsOf(position: number): string;
  map(position: number, name: string): string;
}
/** The paths of one attachment. */
export interface AttachmentPins {
  root: string;
  network: string;
  directory: string;
  record: string;
  nextRecord: string;
  link(place: ChainPlace): string;
  nextLink: string;
  filter(place: ChainPlace): string;
  generation(number: number): string;
  direction(generation: number, place: ChainPlace): ChainPins;
  trace: { directory: string; folder(place: ChainPlace): string; chain(place: ChainPlace): string };
}

/**
 * The root as given in the configuration, without a trailing slash or detours.
 * @throws RemoraError invalidConfig for a relative path and for `/`.
 */
export function rootOf(bpffs: string): string {
  const root = normalize(bpffs).replace(/\/+$/, "");
  if (!isAbsolute(bpffs) || root === "")
    throw new RemoraError(
      code.invalidConfig,
      `bpffs is ${JSON.stringify(bpffs)}: it must be an absolute path of a directory on a bpffs, such as /sys/fs/bpf/remora`,
    );
  return root;
}

/** The folder of a network's attachments. */
export function networkDirectory(bpffs: string, network: string): string {
  return `${rootOf(bpffs)}/${encodeName(network)}`;
}

/** The paths of an attachment, from what CNI names it by. */
export function pinsOf(bpffs: string, id: AttachmentId): AttachmentPins {
  return pinsIn(bpffs, encodeName(id.network), attachmentName(id));
}

/** The paths of an attachment, from the names of its folders as they were found. */
export function pinsIn(bpffs: string, networkName: string, name: string): AttachmentPins {
  const root = rootOf(bpffs);
  const network = `${root}/${networkName}`;
  const directory = `${network}/${name}`;
  return {
    root,
    network,
    directory,
    record: `${directory}/record`,
    nextRecord: `${directory}/record_next`,
    link: (place) => `${directory}/link_${place}`,
    nextLink: `${directory}/link_next`,
    filter: (place) => `${directory}/filter_${place}`,
    generation: (number) => `${directory}/g${number}`,
    direction(generation, place) {
      const folder = `${directory}/g${generation}/${place}`;
      return {
        directory: folder,
        chain: `${folder}/chain`,
        counters: `${folder}/counters`,
        base: `${folder}/base`,
        maps: `${folder}/maps`,
        mapsOf: (position) => `${folder}/maps/${position}`,
        map: (position, name) => `${folder}/maps/${position}/${encodeName(name)}`,
      };
    },
    trace: {
      directory: `${directory}/trace`,
      folder: (place) => `${directory}/trace/${place}`,
      chain: (place) => `${directory}/trace/${place}/chain`,
    },
  };
}

/** No map's own name holds a colon once it is encoded. */
export const keptEnd = ":kept";

/** The paths of the maps that all pods share, of one program. A network called `node` may stand beside: its folders hold a colon. */
export function nodeMapPins(
  bpffs: string,
  program = "",
): { root: string; directory: string; map(name: string): string; kept(name: string): string } {
  const root = `${rootOf(bpffs)}/node`;
  const directory = `${root}/${encodeName(program)}`;
  const map = (name: string): string => `${directory}/${encodeName(name, longestName - keptEnd.length)}`;
  return { root, directory, map, kept: (name) => `${map(name)}${keptEnd}` };
}

/** The name of an attachment's folder in its network's. */
export function attachmentName(id: Pick<AttachmentId, "containerId" | "ifname">): string {
  return `${encodeName(id.containerId, longestContainer)}:${encodeName(id.ifname, longestInterface)}`;
}

/**
 * Whom a folder belongs to, from its name alone; undefined where it is not one that Remora makes. Of a container id that
 * was too long for a name, the name (with its digest) stands for it.
 */
export function attachmentOf(networkName: string, name: string): AttachmentId | undefined {
  const colon = name.indexOf(":");
  if (colon < 1) return undefined;
  const network = decodeName(networkName) ?? cut(networkName);
  const container = name.slice(0, colon);
  const containerId = decodeName(container, longestContainer) ?? cut(container);
  const ifname = decodeName(name.slice(colon + 1), longestInterface);
  if (network === undefined || containerId === undefined || ifname === undefined) return undefined;
  return { network, containerId, ifname };
}

function cut(name: string): string | undefined {
  return /^[A-Za-z0-9_%-]{100}~[0-9a-f]{64}$/.test(name) ? name : undefined;
}

/** Whether a name is one of those that Remora puts into an attachment's folder. */
export function belongsInAttachment(name: string): boolean {
  const links = chainPlaces.flatMap((place) => [`link_${place}`, `filter_${place}`]);
  return ["record", "record_next", "trace", "link_next", ...links].includes(name) || generationOf(name) !== undefined;
}

/** The number of the generation that a folder's name stands for. */
export function generationOf(name: string): number | undefined {
  const [, number] = /^g([1-9][0-9]{0,8})$/.exec(name) ?? [];
  return number === undefined ? undefined : Number(number);
}

/** @throws RemoraError internal for a path that is not strictly below the root: nothing out there is ours to remove. */
export function requireInside(root: string, path: string): void {
  if (normalize(path) !== path || !path.startsWith(`${rootOf(root)}/`) || path.endsWith("/"))
    throw new RemoraError(code.internal, `refuses to remove ${path}: it is not below ${root}`);
}
