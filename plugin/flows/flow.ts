// SPDX-License-Identifier: Apache-2.0
/** Flows of a pod, as flow-log's map holds them (bpf/include/remora/flows.h), in the form that the rest of Remora uses. */

import type { Fd, KernelPort } from "../kernel/port.ts";
import { decodeSum, splitCpus } from "../values/decode.ts";
import { type Endpoint, Layout, typesOf } from "./layout.ts";

/** The program, and its maps. */
export const flowLog = {
  program: "flow-log",
  flows: "flows",
  counts: "counts",
  ended: "ended",
  scratch: "scratch",
} as const;

/** What one side of a flow sent. */
export interface FlowSide {
  /** On the wire: each segment of a GSO packet. */
  packets: number;
  /** Of all their frames, link-layer headers included. */
  bytes: number;
  /** The same from the IP header on. */
  ipBytes: number;
  /** All that were seen, as in the header. */
  tcpFlags: number;
  retransmissions: number;
  /** Of the packets, those that a later program of the chain has dropped. */
  dropped: number;
}

export interface Flow {
  /** The same for the same flow, read again. */
  key: string;
  /** IANA's number. */
  protocol: number;
  /** The pod's side. Of ICMP, type * 256 + code is the port of the side that the first packet went to. */
  local: Endpoint;
  remote: Endpoint;
  initiator: "local" | "remote";
  /** Milliseconds since the epoch, with fractions. */
  first: number;
  last: number;
  /** What the pod sent, and what it received. */
  sent: FlowSide;
  received: FlowSide;
  /** TCP: how often it was opened anew while it was kept. */
  connections: number;
  /**
   * Of the handshake, in milliseconds, undefined where it was not measured: how long the remote side and the way there
   * took to answer, and how long the pod did.
   */
  remoteRtt: number | undefined;
  podRtt: number | undefined;
  /** The program that dropped a packet last, its name's first 15 bytes; empty where none was dropped. */
  droppedBy: string;
}

/** Reads another map of the same program; undefined where it has none of that name. */
export type ReadOther = <T>(map: string, read: (map: Fd) => T) => T | undefined;

const ingress = 1; // enum remora_direction
const flowSize = 40; // struct remora_flow

/**
 * Makes a reader of a flow map; what it gives is in no order.
 *
 * @param clock turns CLOCK_MONOTONIC in nanoseconds into milliseconds since the epoch.
 * @param other the program's other maps: what became of the last packet of each CPU is not in its record yet.
 * @throws RemoraError unsupported where the map's records are not those of flow-log. KernelError.
 */
export function flowReader(
  kernel: KernelPort,
  map: Fd,
  clock: (nanoseconds: number) => number,
  other: ReadOther = () => undefined,
): () => Flow[] {
  const types = typesOf(kernel, map, flowLog.program);
  const value = new Layout(types.value, flowLog.program);
  const ends = new Layout(types.key, flowLog.program).flow();
  const numbers = value.numbers([
    "initiator",
    "first_seen",
    "last_seen",
    "connections",
    "syn_to_synack",
    "synack_to_ack",
  ]);
  const side = (name: "ingress" | "egress"): ((values: Buffer, at: number) => FlowSide) => {
    const counted = value.numbers(
      ["packets", "bytes", "ip_bytes", "retransmissions", "dropped", "tcp_flags"],
      `${name}.`,
    );
    return (values, at) => {
      const { packets, bytes, ip_bytes: ipBytes, retransmissions, dropped, tcp_flags: flags } = counted(values, at);
      return { packets, bytes, ipBytes, retransmissions, dropped, tcpFlags: flags };
    };
  };
  const sent = side("egress");
  const received = side("ingress");
  const droppedBy = value.text("dropped_by");
  const measured = (nanoseconds: number): number | undefined => (nanoseconds > 0 ? nanoseconds / 1e6 : undefined);

  return () => {
    const { count, keys, values } = kernel.readMap(map);
    // Only now: a drop that flow-log itself has just written down is not told twice.
    const pending = readPending(kernel, other);
    const flows: Flow[] = [];
    for (let index = 0; index < count; index++) {
      const at = index * types.key.size;
      const from = index * types.value.size;
      const read = numbers(values, from);
      if (read.first_seen === 0) continue; // being made at this moment
      const inbound = read.initiator === ingress;
      // Who is called answers the SYN; who calls answers the SYN/ACK.
      const [called, calling] = [measured(read.syn_to_synack), measured(read.synack_to_ack)];
      const { source, destination, protocol } = ends(keys, at);
      const flow: Flow = {
        key: keys.toString("latin1", at, at + types.key.size),
        protocol,
        local: source,
        remote: destination,
        initiator: inbound ? "remote" : "local",
        first: clock(read.first_seen),
        last: clock(read.last_seen),
        sent: sent(values, from),
        received: received(values, from),
        connections: read.connections,
        remoteRtt: inbound ? calling : called,
        podRtt: inbound ? called : calling,
        droppedBy: droppedBy(values, from),
      };
      for (const { key, direction, packets, program } of pending) {
        if (key !== flow.key) continue;
        flow[direction].dropped += packets;
        flow.droppedBy = program;
      }
      flows.push(flow);
    }
    return flows;
  };
}

/** The last packet of a CPU, which a later program has dropped: its record will say so when the next one comes. */
interface Pending {
  key: string;
  direction: "sent" | "received";
  packets: number;
  program: string;
}

const shot = 2; // TC_ACT_SHOT

function readPending(kernel: KernelPort, other: ReadOther): Pending[] {
  const cpus = (name: string) =>
    other(name, (map) => {
      const { value } = typesOf(kernel, map, flowLog.program);
      const bytes = kernel.lookupMap(map, Buffer.alloc(4)) ?? Buffer.alloc(0);
      return { layout: new Layout(value, flowLog.program), values: splitCpus(bytes, value.size) };
    });
  const endings = cpus(flowLog.ended);
  const packets = endings && cpus(flowLog.scratch);
  if (!packets) return [];
  const ending = endings.layout.numbers(["ending", "verdict"]);
  const by = endings.layout.text("program");
  const packet = packets.layout.numbers(["packets", "logged"]);
  const flow = packets.layout.place("flow", flowSize);
  return endings.values.flatMap((told, cpu): Pending[] => {
    const last = packets.values[cpu];
    if (!last || ending(told, 0).ending === 0 || ending(told, 0).verdict !== shot) return [];
    const { packets: count, logged } = packet(last, 0);
    if (logged === 0) return [];
    return [
      {
        key: last.toString("latin1", flow, flow + flowSize),
        direction: logged === ingress ? "received" : "sent",
        packets: count,
        program: by(told, 0),
      },
    ];
  });
}

/** What flow-log says of itself: its `counts`, of both directions together. */
export interface FlowCounts {
  /** Packets that are in no record. */
  notIp: number;
  malformed: number;
  refused: number;
  /** Records that were made. What is there no more was forgotten for newer ones. */
  created: number;
}

export function readCounts(kernel: KernelPort, map: Fd): FlowCounts {
  const { value } = typesOf(kernel, map, flowLog.program);
  const bytes = kernel.lookupMap(map, Buffer.alloc(4)) ?? Buffer.alloc(value.size);
  const both = decodeSum(value, splitCpus(bytes, value.size));
  const sum = (name: string): number =>
    ["ingress", "egress"].reduce((total, direction) => {
      const counts = Object(Object(both)[direction]);
      return total + (Number(counts[name]) || 0);
    }, 0);
  return { notIp: sum("not_ip"), malformed: sum("malformed"), refused: sum("refused"), created: sum("created") };
}

// ---- what became of it -------------------------------------------------------------------------------------------

const tcp = 6;
const flag = { fin: 1, syn: 2, rst: 4 } as const;

/**
 * `oneway`: one side only has sent. `several`: connections one after the other between the same ports, whose flags are
 * kept as one, so that the last one's state is not known.
 */
export type FlowState = "open" | "closing" | "closed" | "reset" | "oneway" | "several";

export function stateOf({ protocol, sent, received, connections }: Flow): FlowState {
  if (protocol === tcp && connections > 1) return "several";
  if (protocol === tcp && (sent.tcpFlags | received.tcpFlags) & flag.rst) return "reset";
  if (sent.packets === 0 || received.packets === 0) return "oneway";
  if (protocol !== tcp) return "open";
  const finished = [sent, received].filter(({ tcpFlags }) => tcpFlags & flag.fin).length;
  return finished === 2 ? "closed" : finished === 1 ? "closing" : "open";
}

/** Nothing more is to come, but the last acknowledgements. */
export function hasEnded(flow: Flow): boolean {
  const state = stateOf(flow);
  return state === "closed" || state === "reset";
}

const icmp = [1, 58];

/** Type and code, where the flow is ICMP. */
export function icmpOf({ protocol, initiator, local, remote }: Flow): { type: number; code: number } | undefined {
  if (!icmp.includes(protocol)) return undefined;
  const { port } = initiator === "local" ? remote : local;
  return { type: port >> 8, code: port & 0xff };
}
