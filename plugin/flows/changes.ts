// SPDX-License-Identifier: Apache-2.0
/** What happened to flows between two looks at them. Pure. */

import { type Flow, type FlowSide, hasEnded } from "./flow.ts";
import type { ExportedFlow, ExportedSide, ForwardingStatus } from "./ipfix.ts";

export interface Change {
  /** `end`: the connection is closed, and nothing but stray packets is to come. */
  event: "new" | "update" | "end";
  flow: Flow;
  /** What came since the look before. */
  sent: FlowSide;
  received: FlowSide;
  /** The time of the last packet that was told before, or of the first. */
  since: number;
}

/** Remembers the flows of one map as they were. */
export class Changes {
  #before = new Map<string, Flow>();

  /** The flows that have packets which no look before told of; in the order given. */
  next(flows: Flow[]): Change[] {
    const changes: Change[] = [];
    const now = new Map<string, Flow>();
    for (const flow of flows) {
      now.set(flow.key, flow);
      const before = this.#before.get(flow.key);
      // The same ports again, after the record was forgotten, are a new flow.
      const known = before?.first === flow.first ? before : undefined;
      const sent = difference(flow.sent, known?.sent);
      const received = difference(flow.received, known?.received);
      if (known && sent.packets + received.packets + sent.dropped + received.dropped === 0) continue;
      const event = hasEnded(flow) ? "end" : known ? "update" : "new";
      changes.push({ event, flow, sent, received, since: known?.last ?? flow.first });
    }
    this.#before = now;
    return changes;
  }
}

/** Flags stay all that were ever seen: which are new is not known. */
function difference(now: FlowSide, before: FlowSide | undefined): FlowSide {
  if (before === undefined) return now;
  return {
    packets: now.packets - before.packets,
    bytes: now.bytes - before.bytes,
    ipBytes: now.ipBytes - before.ipBytes,
    tcpFlags: now.tcpFlags,
    retransmissions: now.retransmissions - before.retransmissions,
    dropped: now.dropped - before.dropped,
  };
}

/** Milliseconds without a packet, after which a flow is exported as idle. */
const idleAfter = 60_000;

/** The library's programs that drop for a reason which the registry of forwardingStatus has a code for. */
const dropReasons = new Map<string, ForwardingStatus>([
  ["acl", "aclDenied"],
  ["conn-limit", "policed"],
  ["rate-limit", "policed"],
  ["guard", "spoofed"],
]);

function statusOf(packets: number, dropped: number, program: string): ForwardingStatus {
  if (packets > dropped) return "forwarded";
  return dropped === 0 ? "unknown" : (dropReasons.get(program) ?? "dropped");
}

/**
 * A change as IPFIX tells it.
 *
 * @param now milliseconds since the epoch.
 */
export function exported({ event, flow, sent, received, since }: Change, now: number): ExportedFlow {
  const side = ({ packets, ipBytes: octets, dropped, tcpFlags }: FlowSide): ExportedSide => ({
    ...{ packets, octets, dropped, tcpFlags },
    status: statusOf(packets, dropped, flow.droppedBy),
  });
  const outbound = flow.initiator === "local";
  const [source, destination] = outbound ? [flow.local, flow.remote] : [flow.remote, flow.local];
  return {
    source: source.address,
    destination: destination.address,
    sourcePort: source.port,
    destinationPort: destination.port,
    protocol: flow.protocol,
    start: Math.floor(since),
    end: Math.floor(flow.last),
    forward: side(outbound ? sent : received),
    backward: side(outbound ? received : sent),
    reason: event === "end" ? "ended" : now - flow.last > idleAfter ? "idle" : "active",
    direction: outbound ? "egress" : "ingress",
  };
}
