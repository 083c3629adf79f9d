// SPDX-License-Identifier: Apache-2.0
/**
 * BTF declaration tags of parameters and maps, as the macros of `bpf/include/remora/params.h` write them:
 * `remora:<key>=<value>`. Tags of others are none of our business; an unknown one of ours is a fault of the object.
 */

export interface ParameterTags {
  unit?: string;
  min?: string;
  max?: string;
  help?: string;
  /** The global that receives the number of elements of a list. */
  count?: string;
  /** What of the pod's interface it is filled from. */
  from?: Source;
  choices: { name: string; value: string }[];
}

/**
 * What an attachment knows: the addresses and the MAC that its interface was given, the first address of a family, its MTU; and
 * in which directions the program stands.
 */
export const sources = ["addresses", "ipv4", "ipv6", "mac", "mtu", "directions"] as const;
export type Source = (typeof sources)[number];

const own = "remora:";
const parameterKeys = ["unit", "min", "max", "count", "help", "from"] as const;
const scopes = ["pod", "node"] as const;

/** A tag that cannot be understood; the message is a clause that quotes it. */
export class BadTag extends Error {
  override readonly name = "BadTag";
}

function* ownTags(tags: readonly string[]): Generator<{ tag: string; key: string; value: string }> {
  for (const tag of tags) {
    if (!tag.startsWith(own)) continue;
    const [, key, value] = /^remora:([a-z]+)=(.*)$/s.exec(tag) ?? [];
    if (key === undefined || value === undefined)
      throw new BadTag(`its tag "${tag}" is not of the form remora:key=value`);
    yield { tag, key, value };
  }
}

/** Throws BadTag. */
export function parameterTags(tags: readonly string[]): ParameterTags {
  const read: ParameterTags = { choices: [] };
  for (const { tag, key, value } of ownTags(tags)) {
    if (key === "choice") {
      const [, name, number] = /^([^=\s]+)=(.+)$/.exec(value) ?? [];
      if (name === undefined || number === undefined)
        throw new BadTag(`its tag "${tag}" is not of the form choice=NAME=NUMBER`);
      read.choices.push({ name, value: number });
      continue;
    }
    const known = parameterKeys.find((candidate) => candidate === key);
    if (known === undefined)
      throw new BadTag(`its tag "${tag}" has an unknown key (known: ${parameterKeys.join(", ")}, choice)`);
    if (read[known] !== undefined) throw new BadTag(`its tag "${tag}" comes after another ${key}`);
    if (known !== "from") read[known] = value;
    else read.from = sourceOf(tag, value);
  }
  return read;
}

function sourceOf(tag: string, value: string): Source {
  const source = sources.find((candidate) => candidate === value);
  if (source === undefined) throw new BadTag(`its tag "${tag}" names no source (known: ${sources.join(", ")})`);
  return source;
}

export interface MapTags {
  scope?: (typeof scopes)[number];
  /** The parameter without which the program does not use the map. */
  when?: string;
  /** What the stages behind the program write into it. */
  told?: "ending";
}

/** Throws BadTag. */
export function mapTags(tags: readonly string[]): MapTags {
  const read: MapTags = {};
  for (const { tag, key, value } of ownTags(tags)) {
    const scope = scopes.find((candidate) => candidate === value);
    if (read[key as keyof MapTags] !== undefined) throw new BadTag(`its tag "${tag}" comes after another ${key}`);
    if (key === "scope" && scope !== undefined) read.scope = scope;
    else if (key === "when" && value !== "") read.when = value;
    else if (key === "told" && value === "ending") read.told = value;
    else
      throw new BadTag(
        `its tag "${tag}" is not remora:scope=pod, remora:scope=node, remora:when=PARAMETER or remora:told=ending`,
      );
  }
  return read;
}
