// SPDX-License-Identifier: Apache-2.0
/** Flows and DNS transactions as `remora flows` says them: objects for --json, rows of a table, and lines. */

import { address } from "../catalog/address.ts";
import type { Change } from "../flows/changes.ts";
import type { Transaction } from "../flows/dns.ts";
import { type Flow, type FlowSide, icmpOf, stateOf } from "../flows/flow.ts";
import type { Endpoint } from "../flows/layout.ts";
import { hasPorts, protocolName, tcpFlags, type Flow as Wire } from "../trace/packet.ts";
import { short } from "./rates.ts";
import type { Recorded } from "./records.ts";
import { type Column, type Row, table } from "./table.ts";
import { type Page, printable } from "./terminal.ts";

const mapped = Buffer.from("00000000000000000000ffff", "hex");

function addressOf({ address: bytes }: Endpoint): string {
  return String(address.decode(bytes.length === 4 ? Buffer.concat([mapped, bytes]) : bytes));
}

/** `10.0.0.7:80`, `[fd00::7]:80`; without a port where there are none. */
function endOf(end: Endpoint, port: boolean): string {
  const text = addressOf(end);
  return !port ? text : end.address.length === 16 ? `[${text}]:${end.port}` : `${text}:${end.port}`;
}

/** As the filters know a packet of it. */
export function wireOf({ protocol, local, remote }: Pick<Flow, "protocol" | "local" | "remote">): Wire {
  const name = protocolName(protocol);
  const ports = hasPorts(name) ? { sourcePort: local.port, destinationPort: remote.port } : {};
  return { protocol: name, source: addressOf(local), destination: addressOf(remote), ...ports };
}

/** UTC, to the microsecond. */
function timestamp(milliseconds: number): string {
  const micros = String(Math.floor((milliseconds % 1) * 1000)).padStart(3, "0");
  return new Date(milliseconds).toISOString().replace("Z", `${micros}Z`);
}

/** Of the local day. */
function clock(milliseconds: number): string {
  const date = new Date(milliseconds);
  const two = (number: number): string => String(number).padStart(2, "0");
  const millis = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${millis}`;
}

/** To the microsecond, so that no digits are printed that mean nothing. */
function rounded(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}

export function identity({ status, record }: Recorded) {
  return { pod: status.pod, containerId: status.containerId, ifname: record.id.ifname };
}

// ---- flows: JSON -------------------------------------------------------------------------------------------------

export function flowObject(recorded: Recorded, flow: Flow) {
  const { local, remote } = flow;
  const protocol = protocolName(flow.protocol);
  const icmp = icmpOf(flow);
  const ports = hasPorts(protocol) ? { localPort: local.port, remotePort: remote.port } : {};
  const side = ({ packets, bytes, dropped, tcpFlags: flags, retransmissions }: FlowSide) => ({
    packets,
    bytes,
    dropped,
    ...(protocol === "tcp" && { tcpFlags: tcpFlags(flags), retransmissions }),
  });
  return {
    ...identity(recorded),
    protocol,
    local: addressOf(local),
    remote: addressOf(remote),
    ...ports,
    ...(icmp && { icmpType: icmp.type, icmpCode: icmp.code }),
    initiator: flow.initiator,
    first: timestamp(flow.first),
    last: timestamp(flow.last),
    sent: side(flow.sent),
    received: side(flow.received),
    ...(protocol === "tcp" && {
      connections: flow.connections,
      rttMs: flow.remoteRtt === undefined ? null : rounded(flow.remoteRtt),
      podRttMs: flow.podRtt === undefined ? null : rounded(flow.podRtt),
    }),
    state: stateOf(flow),
    ...(flow.droppedBy && { droppedBy: flow.droppedBy }),
  };
}

// ---- flows: text -------------------------------------------------------------------------------------------------

const flowColumns: Column[] = [
  { title: "if", optional: true },
  { title: "seen", align: "right" },
  { title: "proto" },
  { title: "" },
  { title: "pod", fit: "middle" },
  { title: "remote", fit: "middle" },
  { title: "packets", align: "right" },
  { title: "bytes", align: "right" },
  { title: "rtt", align: "right", optional: true },
  { title: "resent", align: "right", optional: true },
  { title: "state" },
  { title: "dropped", optional: true },
];

/** A table; the pod's own address stands in it only where the pod has several of a family. */
export function flowTable(page: Page, flows: { recorded: Recorded; flow: Flow }[], now: number): string[] {
  const several = new Set(flows.map(({ recorded }) => recorded)).size > 1;
  const locals = new Map<number, Set<string>>();
  for (const { flow } of flows) {
    const { length } = flow.local.address;
    locals.set(length, (locals.get(length) ?? new Set()).add(addressOf(flow.local)));
  }
  const rows = flows.map(({ recorded, flow }): Row => {
    const protocol = protocolName(flow.protocol);
    const ports = hasPorts(protocol);
    const own = (locals.get(flow.local.address.length)?.size ?? 0) > 1;
    const state = stateOf(flow);
    const resent = flow.sent.retransmissions + flow.received.retransmissions;
    return {
      cells: [
        several ? recorded.record.id.ifname : "",
        age(now - flow.last),
        protocol,
        flow.initiator === "local" ? "out" : "in",
        own ? endOf(flow.local, ports) : ports ? `:${flow.local.port}` : "",
        endOf(flow.remote, ports),
        `${short(flow.sent.packets)}/${short(flow.received.packets)}`,
        `${short(flow.sent.bytes)}/${short(flow.received.bytes)}`,
        flow.remoteRtt === undefined ? "" : `${digits(flow.remoteRtt)} ms`,
        resent > 0 ? { text: short(resent), tone: "warn" } : "",
        state === "reset" || (state === "oneway" && protocol === "tcp")
          ? { text: stateText(flow), tone: "warn" }
          : stateText(flow),
        droppedOf(flow) > 0 ? { text: droppedText(flow), tone: "warn" } : "",
      ],
    };
  });
  return table(page, flowColumns, rows);
}

function droppedOf({ sent, received }: Flow): number {
  return sent.dropped + received.dropped;
}

function droppedText(flow: Flow): string {
  return `${short(droppedOf(flow))} by ${printable(flow.droppedBy)}`;
}

function stateText(flow: Flow): string {
  const icmp = icmpOf(flow);
  if (icmp) return `type ${icmp.type}${icmp.code === 0 ? "" : ` code ${icmp.code}`}`;
  const state = stateOf(flow);
  return state === "several" ? `${flow.connections} connections` : state === "oneway" ? "one way" : state;
}

/** A change on one line: who to whom, what came and went in all, what became of it. */
export function flowLine({ event, flow }: Change, ifname: string): string {
  const protocol = protocolName(flow.protocol);
  const ports = hasPorts(protocol);
  const [from, to] = flow.initiator === "local" ? [flow.local, flow.remote] : [flow.remote, flow.local];
  const resent = flow.sent.retransmissions + flow.received.retransmissions;
  const words = [
    clock(flow.last),
    event.padEnd(6),
    ifname,
    protocol,
    `${endOf(from, ports)} > ${endOf(to, ports)}`,
    `sent ${sideText(flow.sent)}`,
    `received ${sideText(flow.received)}`,
    flow.remoteRtt === undefined ? "" : `rtt ${digits(flow.remoteRtt)} ms`,
    resent > 0 ? `${resent} resent` : "",
    droppedOf(flow) > 0 ? `dropped ${droppedText(flow)}` : "",
    stateText(flow),
  ];
  return printable(words.filter((word) => word !== "").join("  "));
}

function sideText({ packets, bytes }: FlowSide): string {
  return `${short(packets)}/${short(bytes)}B`;
}

/** Three digits of a number of milliseconds. */
function digits(milliseconds: number): string {
  return milliseconds >= 100 ? milliseconds.toFixed(0) : milliseconds.toPrecision(2 + (milliseconds >= 10 ? 1 : 0));
}

/** `0s`, `59s`, `3m`, `5h`, `2d`. */
export function age(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

// ---- DNS ---------------------------------------------------------------------------------------------------------

export function transactionObject(recorded: Recorded, transaction: Transaction) {
  const { sequence, asked, client, server, protocol, direction, queries, id, name, type, answer } = transaction;
  return {
    ...identity(recorded),
    sequence,
    asked: timestamp(asked),
    direction,
    protocol: protocolName(protocol),
    client: addressOf(client),
    clientPort: client.port,
    server: addressOf(server),
    serverPort: server.port,
    id,
    name,
    type,
    class: transaction.class,
    queries,
    answer: answer === undefined ? null : { ...answer, latencyMs: rounded(answer.latencyMs) },
  };
}

const dnsColumns: Column[] = [
  { title: "if", optional: true },
  { title: "asked" },
  { title: "" },
  { title: "server", fit: "middle" },
  { title: "type" },
  { title: "name", fit: "middle" },
  { title: "answer" },
  { title: "records", align: "right" },
  { title: "latency", align: "right" },
  { title: "asked again", align: "right", optional: true },
];

export function dnsTable(page: Page, transactions: { recorded: Recorded; transaction: Transaction }[]): string[] {
  const several = new Set(transactions.map(({ recorded }) => recorded)).size > 1;
  const rows = transactions.map(({ recorded, transaction }): Row => {
    const { answer, queries, direction, server, name, type } = transaction;
    const good = answer?.rcode === "NOERROR" && !answer.truncated;
    return {
      cells: [
        several ? recorded.record.id.ifname : "",
        clock(transaction.asked),
        direction === "egress" ? "out" : "in",
        endOf(server, true),
        type,
        name,
        good ? answer.rcode : { text: answerText(transaction), tone: "warn" },
        answer === undefined ? "" : answer.records,
        answer === undefined ? "" : `${digits(answer.latencyMs)} ms`,
        queries > 1 ? { text: `${queries - 1}`, tone: "warn" } : "",
      ],
    };
  });
  return table(page, dnsColumns, rows);
}

function answerText({ answer }: Transaction): string {
  if (answer === undefined) return "none";
  return answer.truncated ? `${answer.rcode}, truncated` : answer.rcode;
}

export function dnsLine(transaction: Transaction, ifname: string): string {
  const { asked, client, server, type, name, answer, queries } = transaction;
  const words = [
    clock(asked),
    ifname,
    `${endOf(client, true)} > ${endOf(server, true)}`,
    type,
    name,
    answer === undefined
      ? "no answer"
      : `${answerText(transaction)}  ${answer.records} ${answer.records === 1 ? "record" : "records"}  ${digits(answer.latencyMs)} ms`,
    queries > 1 ? `asked ${queries} times` : "",
  ];
  return printable(words.filter((word) => word !== "").join("  "));
}
