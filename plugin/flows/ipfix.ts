// SPDX-License-Identifier: Apache-2.0
/**
 * Flows as IPFIX messages (RFC 7011), which one after the other are a file (RFC 5655). Pure: makes bytes.
 *
 * A flow is one record for both of its directions (RFC 5103): what its initiator sent in the ordinary elements, what came
 * back in the reverse ones. nfdump, tshark and YAF's tools read it so. Round-trip times and retransmissions have no
 * standard element and are left out; so are DNS transactions, and the name of the program that dropped a packet.
 */

/** Enterprise number of the reverse elements (RFC 5103, section 6.1). */
const reverse = 29305;

/** https://www.iana.org/assignments/ipfix: number and length in bytes; `enterprise` where it is a reverse element. */
interface Element {
  id: number;
  length: number;
  enterprise?: number;
}
const element = {
  octets: { id: 1, length: 8 },
  packets: { id: 2, length: 8 },
  protocol: { id: 4, length: 1 },
  tcpControlBits: { id: 6, length: 2 },
  sourcePort: { id: 7, length: 2 },
  sourceIpv4: { id: 8, length: 4 },
  destinationPort: { id: 11, length: 2 },
  destinationIpv4: { id: 12, length: 4 },
  sourceIpv6: { id: 27, length: 16 },
  destinationIpv6: { id: 28, length: 16 },
  forwardingStatus: { id: 89, length: 1 },
  direction: { id: 61, length: 1 },
  droppedPackets: { id: 133, length: 8 },
  endReason: { id: 136, length: 1 },
  domainId: { id: 149, length: 4 },
  start: { id: 152, length: 8 },
  end: { id: 153, length: 8 },
  biflowDirection: { id: 239, length: 1 },
  domainName: { id: 300, length: 0xffff }, // as long as each says
} as const satisfies Record<string, Element>;

const set = { template: 2, optionsTemplate: 3 } as const;
/** Templates are numbered from 256. */
const template = { ipv4: 256, ipv6: 257, domain: 258 } as const;

/** Why a record was written (RFC 5102, flowEndReason). `active`: the flow goes on, as far as is known. */
export const endReasons = { idle: 1, active: 2, ended: 3 } as const;
export type EndReason = keyof typeof endReasons;

/**
 * What became of a record's packets (RFC 7270, section 4.12, forwardingStatus). `unknown`: there are none. `forwarded`: some
 * were not dropped here. The others: all of them were, for this reason.
 */
export const forwardingStatuses = {
  unknown: 0,
  forwarded: 64,
  dropped: 128,
  aclDenied: 129,
  policed: 138,
  spoofed: 140,
} as const;
export type ForwardingStatus = keyof typeof forwardingStatuses;

/** Packets and octets of one direction since the record before, and all TCP flags that were seen. */
export interface ExportedSide {
  packets: number;
  octets: number;
  /** Of the packets, those that were dropped behind the observation point. */
  dropped: number;
  status: ForwardingStatus;
  tcpFlags: number;
}

/** One flow record. Source is who began the flow. */
export interface ExportedFlow {
  /** 4 bytes each, or 16. */
  source: Buffer;
  destination: Buffer;
  sourcePort: number;
  destinationPort: number;
  /** IANA's number. */
  protocol: number;
  /** Milliseconds since the epoch: of the first and the last packet that this record counts. */
  start: number;
  end: number;
  forward: ExportedSide;
  backward: ExportedSide;
  reason: EndReason;
  /** Of the source's packets, at the pod's interface. */
  direction: "ingress" | "egress";
}

/** Where flows were seen: an Observation Domain. */
export interface Domain {
  id: number;
  /** Such as `shop/web eth0`. */
  name: string;
}

export interface Stream {
  domain: Pick<Domain, "id">;
  /** Seconds since the epoch. */
  time: number;
  /** Data records of the domain before these, modulo 2^32. */
  sequence: number;
  /** Begin with the templates: the domain's first message must. */
  opening: boolean;
}

/** So long a message may be at most: what fits into one datagram, since collectors that read no files are sent them. */
const longest = 65_507;

/** The messages of these flows, none where there is nothing to say. `sequence` is for the next call. */
export function encode(flows: ExportedFlow[], stream: Stream): { messages: Buffer[]; sequence: number } {
  const messages: Buffer[] = [];
  let sequence = stream.sequence;
  let sets: Buffer[] = stream.opening ? templates() : [];
  let records = 0;
  let length = 16 + sum(sets);
  const flush = (): void => {
    if (sets.length === 0) return;
    messages.push(message(sets, { ...stream, sequence }));
    sequence = (sequence + records) >>> 0;
    [sets, records, length] = [[], 0, 16];
  };
  for (const [id, list] of byTemplate(flows)) {
    for (let from = 0; from < list.length; ) {
      const room = Math.floor((longest - length - 4) / recordLength(id));
      if (room < 1) {
        flush();
        continue;
      }
      const taken = list.slice(from, from + room);
      const one = dataSet(id, taken);
      sets.push(one);
      records += taken.length;
      length += one.length;
      from += taken.length;
    }
  }
  flush();
  return { messages, sequence };
}

function byTemplate(flows: ExportedFlow[]): [4 | 6, ExportedFlow[]][] {
  const six = flows.filter(({ source }) => source.length === 16);
  return [
    [4, six.length === 0 ? flows : flows.filter(({ source }) => source.length !== 16)],
    [6, six],
  ];
}

// ---- templates ---------------------------------------------------------------------------------------------------

/**
 * The fields of a flow record, in order. The reverse flags and status stand before the forward ones: nfdump takes whichever
 * comes last for the flow's.
 */
function fieldsOf(family: 4 | 6): Element[] {
  return [
    element.start,
    element.end,
    ...(family === 4 ? [element.sourceIpv4, element.destinationIpv4] : [element.sourceIpv6, element.destinationIpv6]),
    element.sourcePort,
    element.destinationPort,
    element.protocol,
    { ...element.tcpControlBits, enterprise: reverse },
    element.tcpControlBits,
    element.packets,
    element.octets,
    { ...element.packets, enterprise: reverse },
    { ...element.octets, enterprise: reverse },
    { ...element.forwardingStatus, enterprise: reverse },
    element.forwardingStatus,
    element.droppedPackets,
    { ...element.droppedPackets, enterprise: reverse },
    element.endReason,
    element.direction,
    element.biflowDirection,
  ];
}

const lengths = { 4: sumOf(fieldsOf(4)), 6: sumOf(fieldsOf(6)) };
function sumOf(fields: Element[]): number {
  return fields.reduce((total, { length }) => total + length, 0);
}
function recordLength(family: 4 | 6): number {
  return lengths[family];
}

function specifiers(fields: Element[]): Buffer {
  return Buffer.concat(
    fields.map(({ id, length, enterprise }) => {
      const out = Buffer.alloc(enterprise === undefined ? 4 : 8);
      out.writeUInt16BE(enterprise === undefined ? id : id | 0x8000, 0);
      out.writeUInt16BE(length, 2);
      if (enterprise !== undefined) out.writeUInt32BE(enterprise, 4);
      return out;
    }),
  );
}

function templateRecord(id: number, fields: Element[]): Buffer {
  return Buffer.concat([u16s(id, fields.length), specifiers(fields)]);
}

function templates(): Buffer[] {
  return [
    frame(set.template, [templateRecord(template.ipv4, fieldsOf(4)), templateRecord(template.ipv6, fieldsOf(6))]),
  ];
}

/**
 * The message that gives domains their names, for the beginning of a file: an options record for each, scoped by the domain's
 * number. It is of no domain itself (RFC 7011, section 3.1: 0), so that who does not count such records, as nfdump, misses
 * none in the domains.
 *
 * @param time seconds since the epoch.
 */
export function encodeNames(domains: Domain[], time: number): Buffer {
  const naming = Buffer.concat([u16s(template.domain, 2, 1), specifiers([element.domainId, element.domainName])]);
  const records = domains.map(({ id, name }) => {
    const text = Buffer.from(name, "utf8").subarray(0, 0xfe); // one byte says how long it is
    const head = Buffer.alloc(5);
    head.writeUInt32BE(id, 0);
    head.writeUInt8(text.length, 4);
    return Buffer.concat([head, text]);
  });
  const sets = [frame(set.optionsTemplate, [naming]), frame(template.domain, records)];
  return message(sets, { domain: { id: 0 }, time, sequence: 0 });
}

// ---- data --------------------------------------------------------------------------------------------------------

const directionValues = { ingress: 0, egress: 1 } as const;
/** biflowDirection: the source is the initiator. */
const initiator = 1;

function dataSet(family: 4 | 6, flows: ExportedFlow[]): Buffer {
  const out = Buffer.alloc(4 + flows.length * recordLength(family));
  out.writeUInt16BE(family === 4 ? template.ipv4 : template.ipv6, 0);
  out.writeUInt16BE(out.length, 2);
  let at = 4;
  for (const flow of flows) {
    at = wide(out, flow.start, at);
    at = wide(out, flow.end, at);
    at += flow.source.copy(out, at);
    at += flow.destination.copy(out, at);
    at = out.writeUInt16BE(flow.sourcePort, at);
    at = out.writeUInt16BE(flow.destinationPort, at);
    at = out.writeUInt8(flow.protocol, at);
    at = out.writeUInt16BE(flow.backward.tcpFlags, at);
    at = out.writeUInt16BE(flow.forward.tcpFlags, at);
    at = wide(out, flow.forward.packets, at);
    at = wide(out, flow.forward.octets, at);
    at = wide(out, flow.backward.packets, at);
    at = wide(out, flow.backward.octets, at);
    at = out.writeUInt8(forwardingStatuses[flow.backward.status], at);
    at = out.writeUInt8(forwardingStatuses[flow.forward.status], at);
    at = wide(out, flow.forward.dropped, at);
    at = wide(out, flow.backward.dropped, at);
    at = out.writeUInt8(endReasons[flow.reason], at);
    at = out.writeUInt8(directionValues[flow.direction], at);
    at = out.writeUInt8(initiator, at);
  }
  return out;
}

/** A whole number in 64 bits; what is beyond 2^53 was not exact before, and becomes the largest that is. */
function wide(out: Buffer, value: number, at: number): number {
  const exact = Math.min(Math.max(value, 0), Number.MAX_SAFE_INTEGER);
  out.writeUInt32BE(Math.floor(exact / 2 ** 32), at);
  return out.writeUInt32BE(exact % 2 ** 32, at + 4);
}

// ---- framing -----------------------------------------------------------------------------------------------------

function message(sets: Buffer[], { domain, time, sequence }: Omit<Stream, "opening">): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt16BE(10, 0);
  head.writeUInt16BE(16 + sum(sets), 2);
  head.writeUInt32BE(time, 4);
  head.writeUInt32BE(sequence, 8);
  head.writeUInt32BE(domain.id, 12);
  return Buffer.concat([head, ...sets]);
}

function frame(id: number, parts: Buffer[]): Buffer {
  return Buffer.concat([u16s(id, 4 + sum(parts)), ...parts]);
}

function u16s(...values: number[]): Buffer {
  const out = Buffer.alloc(values.length * 2);
  values.forEach((value, index) => {
    out.writeUInt16BE(value, index * 2);
  });
  return out;
}

function sum(parts: Buffer[]): number {
  return parts.reduce((total, { length }) => total + length, 0);
}
