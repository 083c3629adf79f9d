// SPDX-License-Identifier: Apache-2.0
/** Which packets `trace` shows: by what they are, and by what became of them. */

import { BlockList, isIP } from "node:net";
import { type Flow, protocolName, protocolNames } from "../trace/packet.ts";
import { type Arguments, UsageError } from "./command.ts";

export type FlowFilter = (flow: Flow) => boolean;

/** All of what is given must hold. Throws UsageError for what makes no sense. */
export function readFilter(args: Pick<Arguments, "text">): FlowFilter {
  const filters = [protocolFilter(args.text("proto")), portFilter(args.text("port")), addressFilter(args.text("addr"))];
  return (flow) => filters.every((filter) => filter === undefined || filter(flow));
}

function protocolFilter(text: string | undefined): FlowFilter | undefined {
  if (text === undefined) return undefined;
  const name = text.toLowerCase() === "icmpv6" ? "icmp6" : text.toLowerCase();
  const number = /^\d{1,3}$/.test(name) ? Number(name) : Number.NaN;
  if (!protocolNames.includes(name) && !(number <= 255))
    throw new UsageError(`--proto ${text}: give one of ${protocolNames.join(", ")}, or a number from 0 to 255`);
  const wanted = number <= 255 ? protocolName(number) : name;
  return ({ protocol }) => protocol === wanted;
}

/** The source's or the destination's. */
function portFilter(text: string | undefined): FlowFilter | undefined {
  if (text === undefined) return undefined;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (!(port <= 65535)) throw new UsageError(`--port ${text}: give a number from 0 to 65535`);
  return ({ sourcePort, destinationPort }) => sourcePort === port || destinationPort === port;
}

/** The source or the destination; an address or a prefix. */
function addressFilter(text: string | undefined): FlowFilter | undefined {
  if (text === undefined) return undefined;
  const [address = "", bits, ...more] = text.split("/");
  const family = isIP(address);
  const widest = family === 4 ? 32 : 128;
  const length = bits === undefined ? widest : /^\d{1,3}$/.test(bits) ? Number(bits) : Number.NaN;
  if (family === 0 || more.length > 0 || !(length <= widest))
    throw new UsageError(`--addr ${text}: give an address or a prefix, such as 10.0.0.7 or fd00::/64`);
  const list = new BlockList();
  list.addSubnet(address, length, family === 4 ? "ipv4" : "ipv6");
  const holds = (one: string | undefined): boolean =>
    one !== undefined && isIP(one) === family && list.check(one, family === 4 ? "ipv4" : "ipv6");
  return ({ source, destination }) => holds(source) || holds(destination);
}
