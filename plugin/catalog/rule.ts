// SPDX-License-Identifier: Apache-2.0
/**
 * Rules for packets, as `struct remora_rule` of `bpf/include/remora/` holds them:
 *
 *     rule = action [direction] [protocol] [prefix] [ports] ["sport" ports]
 *
 * with `allow|deny`, `ingress|egress`, `tcp|udp|sctp|icmp|icmpv6|proto N`, an address, prefix or `any` for the remote
 * side, and `N` or `N-M` for destination ports, then source ports. Each part but the action may be absent. A list that
 * marks has a DSCP or `keep` for an action, the rest alike.
 */

import { familyOf, parseIpv4, parseIpv6, prefix } from "./address.ts";
import { dscp } from "./notation.ts";
import { BadValue, type Codec } from "./value.ts";
import { quote } from "./words.ts";

const actions = { allow: 1, deny: 2 } as const;
const ruleDirections = { ingress: 1, egress: 2 } as const;
const protocols = { tcp: 6, udp: 17, sctp: 132, icmp: 1, icmpv6: 58 } as const;
const withPorts: number[] = [protocols.tcp, protocols.udp, protocols.sctp];

const match = { protocol: 1, sourcePorts: 2, destinationPorts: 4 } as const;
const at = { sourcePorts: 24, destinationPorts: 28, action: 32, direction: 33, protocol: 34, match: 35 } as const;

/** What a rule begins with: the byte `action` as a word. */
interface Action {
  /** As it stands in the grammar, and in a sentence. */
  name: string;
  names: string;
  example: string;
  parse(word: string): number | undefined;
  render(value: number): string;
}

const verdict: Action = {
  name: "action",
  names: "allow or deny",
  example: "deny tcp 10.0.0.0/8 80-90",
  parse: (word) => numberOf(actions, word),
  render: (value) => nameOf(actions, value) ?? `action-${value}`,
};

const codePoint: Action = {
  name: "dscp",
  names: dscp.expects,
  example: "EF udp 10.0.0.0/8 5060-5090",
  parse(word) {
    try {
      return Number(dscp.parse(word));
    } catch (error) {
      if (!(error instanceof BadValue)) throw error;
      return undefined;
    }
  },
  render: (value) => String(dscp.render(BigInt(value))),
};

const grammarOf = ({ name }: Action): string => `${name} [ingress|egress] [protocol] [prefix] [ports] [sport ports]`;

function numberOf(names: Readonly<Record<string, number>>, word: string | undefined): number | undefined {
  return word !== undefined && Object.hasOwn(names, word) ? names[word] : undefined;
}

function nameOf(names: Readonly<Record<string, number>>, value: number | undefined): string | undefined {
  return Object.keys(names).find((name) => names[name] === value);
}

/** `allow` or `deny`, and what. */
export const rule = ruleCodec(verdict);
/** A DSCP or `keep`, and for what. */
export const dscpRule = ruleCodec(codePoint);

function ruleCodec(first: Action): Codec {
  return {
    expects: `a rule such as "${first.example}" (${grammarOf(first)})`,
    size: 40,

    encode(text) {
      const wrong = (why: string) => new BadValue(`rule ${quote(text)}: ${why}`);
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      const bytes = Buffer.alloc(40);

      const action = first.parse(words[0] ?? "");
      if (action === undefined) throw wrong(`it must begin with ${first.names}`);
      bytes[at.action] = action;
      words.shift();

      const direction = numberOf(ruleDirections, words[0]);
      if (direction !== undefined) {
        bytes[at.direction] = direction;
        words.shift();
      }

      let protocol = numberOf(protocols, words[0]);
      const protocolWord = words[0];
      if (protocol !== undefined) words.shift();
      else if (protocolWord === "proto") {
        protocol = /^\d{1,3}$/.test(words[1] ?? "") ? Number(words[1]) : 256;
        if (protocol > 255) throw wrong("proto must be followed by a protocol number from 0 to 255");
        words.splice(0, 2);
      }
      if (protocol !== undefined) {
        bytes[at.protocol] = protocol;
        bytes[at.match] = match.protocol;
      }

      if (words[0] !== undefined && /[.:/]|^any$/.test(words[0])) {
        const remote = encodePrefix(words[0], wrong);
        const family = familyOf(remote);
        if (protocol === protocols.icmp && family === 6) throw wrong("icmp is IPv4's, use icmpv6 with an IPv6 prefix");
        if (protocol === protocols.icmpv6 && family === 4)
          throw wrong("icmpv6 is IPv6's, use icmp with an IPv4 prefix");
        bytes.set(remote);
        words.shift();
      }

      const ports = (offset: number, bit: number, given: string | undefined) => {
        if (given === undefined) return bytes.writeUInt16LE(0xffff, offset + 2);
        if (protocol !== undefined && !withPorts.includes(protocol)) {
          throw wrong(
            `${nameOf(protocols, protocol) ?? `protocol ${protocol}`} has no ports, only tcp, udp and sctp have`,
          );
        }
        const [first, last] = parsePorts(given, wrong);
        bytes.writeUInt16LE(first, offset);
        bytes.writeUInt16LE(last, offset + 2);
        return bytes.writeUInt8((bytes[at.match] ?? 0) | bit, at.match);
      };
      ports(at.destinationPorts, match.destinationPorts, /^\d/.test(words[0] ?? "") ? words.shift() : undefined);
      let source: string | undefined;
      if (words[0] === "sport") {
        source = words[1] ?? "";
        words.splice(0, 2);
      }
      ports(at.sourcePorts, match.sourcePorts, source);

      if (words[0] !== undefined) throw wrong(whyLeftOver(words[0], first));
      return bytes;
    },

    decode(bytes) {
      const matches = bytes[at.match] ?? 0;
      const protocol = bytes[at.protocol];
      const remote = prefix.decode(bytes.subarray(0, prefix.size));
      const ports = (offset: number) => {
        const [first, last] = [bytes.readUInt16LE(offset), bytes.readUInt16LE(offset + 2)];
        return first === last ? String(first) : `${first}-${last}`;
      };
      return [
        first.render(bytes[at.action] ?? 0),
        nameOf(ruleDirections, bytes[at.direction]),
        matches & match.protocol ? (nameOf(protocols, protocol) ?? `proto ${protocol}`) : undefined,
        remote === "any" ? undefined : remote,
        matches & match.destinationPorts ? ports(at.destinationPorts) : undefined,
        matches & match.sourcePorts ? `sport ${ports(at.sourcePorts)}` : undefined,
      ]
        .filter((word) => word !== undefined)
        .join(" ");
    },
  };
}

type Wrong = (why: string) => BadValue;

function encodePrefix(word: string, wrong: Wrong): Buffer {
  try {
    return prefix.encode(word);
  } catch (error) {
    throw error instanceof BadValue ? wrong(error.message) : error;
  }
}

function parsePorts(word: string, wrong: Wrong): [first: number, last: number] {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(word) ?? [];
  const range: [number, number] = [Number(first), Number(last)];
  if (first === undefined || Math.max(...range) > 65535) {
    throw wrong(`${quote(word)} is not a port or a range such as 80-90, from 0 to 65535`);
  }
  if (range[0] > range[1]) throw wrong(`the ports ${quote(word)} end before they begin`);
  return range;
}

function whyLeftOver(word: string, action: Action): string {
  const grammar = grammarOf(action);
  const known =
    action.parse(word) !== undefined ||
    word === "sport" ||
    word === "proto" ||
    word === "any" ||
    [ruleDirections, protocols].some((names) => numberOf(names, word) !== undefined) ||
    parseIpv4(word.split("/")[0] ?? "") !== undefined ||
    parseIpv6(word.split("/")[0] ?? "") !== undefined ||
    /^\d+(-\d+)?$/.test(word);
  return known ? `${quote(word)} is out of place: ${grammar}` : `${quote(word)} is not understood: ${grammar}`;
}
