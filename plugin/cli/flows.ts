// SPDX-License-Identifier: Apache-2.0
/** `remora flows`: the flows of a pod as its flow-log has them, and the DNS transactions of its dns-log. */

import { Changes } from "../flows/changes.ts";
import { dnsLog, dnsReader, type Transaction } from "../flows/dns.ts";
import { type Flow, flowLog, flowReader, readCounts } from "../flows/flow.ts";
import { directions, type KernelPort } from "../kernel/port.ts";
import type { AttachmentStatus } from "../model.ts";
import { type Arguments, type Command, type Io, UsageError, type Watch } from "./command.ts";
import { FlowExport } from "./flow-export.ts";
import { type Log, Logs } from "./flow-logs.ts";
import {
  dnsLine,
  dnsTable,
  flowLine,
  flowObject,
  flowTable,
  identity,
  transactionObject,
  wireOf,
} from "./flow-words.ts";
import { short } from "./rates.ts";
import { type Recorded, recordsOf } from "./records.ts";
import { ownerOf } from "./selector.ts";
import { type Page, pageFor, paragraph, printable } from "./terminal.ts";
import { type FlowFilter, readFilter } from "./trace-filter.ts";

/** What flows are sorted by, the most or latest first. */
const orders: Record<string, (flow: Flow) => number> = {
  last: ({ last }) => last,
  first: ({ first }) => first,
  bytes: ({ sent, received }) => sent.bytes + received.bytes,
  packets: ({ sent, received }) => sent.packets + received.packets,
  rtt: ({ remoteRtt }) => remoteRtt ?? -1,
  resent: ({ sent, received }) => sent.retransmissions + received.retransmissions,
};

export const command: Command = {
  operands: "POD",
  maxOperands: 1,
  options: {
    dns: { type: "boolean", help: "DNS transactions, as dns-log has them" },
    follow: { type: "boolean", help: "go on: what changes, at every interval" },
    interval: { type: "string", value: "SECONDS", help: "between two looks of --follow (default 1)" },
    ipfix: { type: "string", value: "FILE", help: "write flows as an IPFIX file" },
    sort: { type: "string", value: "KEY", help: `${Object.keys(orders).join(", ")} (default last)` },
    limit: { type: "string", value: "N", help: "show the first N only" },
    proto: { type: "string", value: "P", help: "only this protocol: tcp, udp, icmp, icmp6, ... or a number" },
    port: { type: "string", value: "N", help: "only from or to this port" },
    addr: { type: "string", value: "A", help: "only from or to this address or prefix" },
  },
  help: `
Shows the flows of a pod: with whom it spoke, who began, packets and bytes on the wire that it sent
and received, the handshake's round-trip time, what was sent again, and what became of it. They are
kept by the program flow-log, which must be in the pod's chain; --dns needs dns-log. The pod is a
name, namespace/name, a container id, or the beginning of one.

  out, in  who began: the pod, or the remote side      sent/received  of the pod
  rtt      how long the remote side took to answer the handshake, the way there and back included
  resent   TCP segments seen again or out of order, both directions
  dropped  packets that a later program of the chain dropped, and which program

--follow begins with what is there, then tells what changes, and ends with Ctrl-C or with the log.

--ipfix FILE writes an IPFIX file (RFC 7011, 5655), a record for both directions of a flow (RFC
5103); octets are those of IP packets, as IPFIX wants them. What was dropped is in
droppedPacketDeltaCount, and where that is all of a record, forwardingStatus says why: 129 acl, 138
rate-limit or conn-limit, 140 guard, 128 others. Round-trip times, retransmissions and DNS have no
standard elements and are not in it. With --follow each interval appends what was added to flows;
what stands in the file is whole at any time.

--json prints {"flows":[{"pod","containerId","ifname","protocol","local","remote","localPort",
"remotePort","initiator","first","last","sent":{"packets","bytes","dropped","tcpFlags",
"retransmissions"},"received":{...},"connections","rttMs","podRttMs","state","droppedBy"}],
"logs":[{"kept","forgotten","droppedBehind":[{"direction","program","packets"}],...}]}; with
--follow a flow a line, with "event": new, update or end. --dns:
{"transactions":[{"asked","direction","client","server","name","type","queries",
"answer":{"latencyMs","rcode","records","truncated"}|null,...}]}.`,
  async run({ args, io, tools, json, bpffs }) {
    const [selector] = args.positionals;
    if (selector === undefined) throw new UsageError("whose flows? Give a pod: remora flows POD");
    const wish = readWish(args);
    if (io.watch === undefined) throw new Error("flows needs a clock");
    const kernel = await tools.kernel();
    const recorded = recordsOf(kernel, bpffs, selector);
    using watch = await io.watch();
    // The kernel's clock against the wall's, once: what is shown keeps its order and its distances.
    const epoch = watch.date() - Number(watch.monotonic()) / 1e6;
    const session: Session = { kernel, io, json, watch, wish, clock: (nanoseconds) => epoch + nanoseconds / 1e6 };
    if (wish.dns) await showTransactions(session, recorded);
    else await showFlows(session, recorded);
    return 0;
  },
};

interface Session {
  kernel: KernelPort;
  io: Io;
  json: boolean;
  watch: Watch;
  wish: Wish;
  clock: (nanoseconds: number) => number;
}

// ---- what is asked for -------------------------------------------------------------------------------------------

interface Wish {
  dns: boolean;
  follow: boolean;
  /** Milliseconds. */
  interval: number;
  ipfix: string | undefined;
  by: (flow: Flow) => number;
  limit: number;
  /** Undefined where every flow is wanted. */
  shows: FlowFilter | undefined;
}

function readWish(args: Arguments): Wish {
  const wish: Wish = {
    dns: args.flag("dns"),
    follow: args.flag("follow"),
    interval: number(args, "interval", 1, { least: 0.05, most: 3600 }) * 1000,
    ipfix: args.text("ipfix"),
    by: orderOf(args.text("sort") ?? "last"),
    limit: number(args, "limit", Number.POSITIVE_INFINITY, { least: 1, most: 1e9, whole: true }),
    shows: ["proto", "port", "addr"].some((name) => args.text(name) !== undefined) ? readFilter(args) : undefined,
  };
  if (wish.dns && wish.ipfix !== undefined)
    throw new UsageError("--ipfix with --dns: IPFIX has no elements for DNS transactions; use --json");
  if (wish.dns && args.text("sort") !== undefined)
    throw new UsageError("--sort with --dns: transactions stand in the order in which they were asked");
  if (wish.follow && (args.text("sort") ?? args.text("limit")) !== undefined)
    throw new UsageError("--sort and --limit choose among what is there: they do not go with --follow");
  if (!wish.follow && args.text("interval") !== undefined) throw new UsageError("--interval goes with --follow");
  return wish;
}

function number(
  args: Arguments,
  name: string,
  otherwise: number,
  { least, most, whole = false }: { least: number; most: number; whole?: boolean },
): number {
  const text = args.text(name);
  if (text === undefined) return otherwise;
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= least && value <= most) || (whole && !Number.isInteger(value)))
    throw new UsageError(`--${name} ${text}: give a ${whole ? "whole " : ""}number from ${least} to ${most}`);
  return value;
}

function orderOf(text: string): Wish["by"] {
  const order = Object.hasOwn(orders, text) ? orders[text] : undefined;
  if (order === undefined) throw new UsageError(`--sort ${text}: give one of ${Object.keys(orders).join(", ")}`);
  return order;
}

// ---- flows -------------------------------------------------------------------------------------------------------

async function showFlows(session: Session, recorded: Recorded[]): Promise<void> {
  const { kernel, watch, wish, clock } = session;
  using logs = new Logs(kernel, recorded, {
    program: flowLog.program,
    map: flowLog.flows,
    reader: (map, other) => flowReader(kernel, map, clock, other),
  });
  const sources = logs.all.map(({ recorded: one }) => one);
  using file = wish.ipfix === undefined ? undefined : new FlowExport(wish.ipfix, sources, watch.date());
  if (wish.follow) await followFlows(session, logs.all, file);
  else listFlows(session, logs.all, file);
  if (file)
    session.io.stderr(`${file.records} ${file.records === 1 ? "flow record" : "flow records"} in ${wish.ipfix}\n`);
}

function shownOf({ wish }: Session, log: Log<Flow>): Flow[] {
  const { shows } = wish;
  return shows ? log.read().filter((flow) => shows(wireOf(flow))) : log.read();
}

function listFlows(session: Session, logs: Log<Flow>[], file: FlowExport | undefined): void {
  const { kernel, io, json, watch, wish } = session;
  const all = logs.flatMap((log) => shownOf(session, log).map((flow) => ({ recorded: log.recorded, flow })));
  all.sort((a, b) => wish.by(b.flow) - wish.by(a.flow));
  const shown = all.slice(0, wish.limit);
  if (file) {
    for (const { recorded } of logs) {
      const own = shown.filter((each) => each.recorded === recorded).map(({ flow }) => flow);
      file.add(recorded, new Changes().next(own), watch.date());
    }
    file.flush();
  }
  if (json) {
    const objects = shown.map(({ recorded, flow }) => flowObject(recorded, flow));
    io.stdout(`${JSON.stringify({ flows: objects, logs: logs.map((log) => logObject(kernel, log)) })}\n`);
  } else if (!file) io.stdout(flowPage(session, logs, all));
}

async function followFlows(session: Session, logs: Log<Flow>[], file: FlowExport | undefined): Promise<void> {
  const { io, json, watch } = session;
  const followed = logs.map((log) => ({ log, changes: new Changes() }));
  await follow(session, logs, () => {
    for (const { log, changes } of followed) {
      const { recorded } = log;
      const changed = changes.next(shownOf(session, log)).sort((a, b) => a.flow.last - b.flow.last);
      file?.add(recorded, changed, watch.date());
      const ifname = logs.length > 1 ? recorded.record.id.ifname : "";
      const lines = json
        ? changed.map(({ event, flow }) => JSON.stringify({ event, ...flowObject(recorded, flow) }))
        : file
          ? []
          : changed.map((change) => flowLine(change, ifname));
      if (lines.length > 0) io.stdout(`${lines.join("\n")}\n`);
    }
    file?.flush();
  });
}

interface FoundFlow {
  recorded: Recorded;
  flow: Flow;
}

/** A terminal's width cuts addresses; who reads a pipe or a file wants them whole. */
function widePage(io: Io): Page {
  const page = pageFor(io);
  return io.isTerminal ? page : { ...page, width: 1000 };
}

function flowPage({ kernel, io, wish, watch }: Session, logs: Log<Flow>[], all: FoundFlow[]): string {
  const page = widePage(io);
  const shown = all.slice(0, wish.limit);
  const lines = logs.flatMap((log) => {
    const { kept, forgotten, refused, malformed, droppedBehind } = logObject(kernel, log);
    const behind = droppedBehind.map(
      ({ program, packets, direction }) => `${program} ${short(packets)} (${direction})`,
    );
    const remarks = [
      forgotten > 0 ? `${short(forgotten)} older ones forgotten` : "",
      refused + malformed > 0 ? `${short(refused + malformed)} packets in none` : "",
      behind.length > 0 ? `dropped behind flow-log: ${behind.join(", ")}` : "",
    ].filter((remark) => remark !== "");
    const title = printable(`${ownerOf(log.recorded.status)}  ${log.recorded.record.id.ifname}`);
    const matching = all.filter(({ recorded }) => recorded === log.recorded).length;
    const flows = `${wish.shows ? `${matching} of ` : ""}${kept} ${kept === 1 ? "flow" : "flows"}`;
    return paragraph(page, [`${title}  ${flows}`, ...remarks].join("; "), 0, "strong");
  });
  if (shown.length > 0) lines.push(...flowTable(page, shown, watch.date()));
  if (shown.length < all.length) lines.push(page.paint(`and ${all.length - shown.length} more`, "faint"));
  return `${lines.join("\n")}\n`;
}

/** What a log says of itself, and what the programs behind it dropped of the packets it has counted. */
function logObject(kernel: KernelPort, log: Log<Flow>) {
  const kept = log.read().length;
  const counts = log.readOther(flowLog.counts, (map) => readCounts(kernel, map));
  return {
    ...identity(log.recorded),
    kept,
    forgotten: Math.max(0, (counts?.created ?? 0) - kept),
    refused: counts?.refused ?? 0,
    malformed: counts?.malformed ?? 0,
    notIp: counts?.notIp ?? 0,
    droppedBehind: droppedBehind(log.recorded.status),
  };
}

function droppedBehind(status: AttachmentStatus): { direction: string; program: string; packets: number }[] {
  return directions.flatMap((direction) => {
    const entries = status[direction];
    const own = entries.findIndex(({ program }) => program === flowLog.program);
    if (own < 0) return [];
    return entries
      .slice(own + 1)
      .flatMap(({ program, ended: { shot: packets = 0 } }) => (packets > 0 ? [{ direction, program, packets }] : []));
  });
}

// ---- DNS ---------------------------------------------------------------------------------------------------------

/** Milliseconds after which an answer is not waited for; one that comes still later is told as well. */
const patience = 5000;

async function showTransactions(session: Session, recorded: Recorded[]): Promise<void> {
  const { kernel, io, json, watch, wish, clock } = session;
  using logs = new Logs(kernel, recorded, {
    program: dnsLog.program,
    map: dnsLog.transactions,
    reader: (map) => dnsReader(kernel, map, clock),
  });
  const shows = ({ protocol, client, server }: Transaction): boolean =>
    wish.shows?.(wireOf({ protocol, local: client, remote: server })) ?? true;

  if (!wish.follow) {
    const all = logs.all.flatMap((log) =>
      log
        .read()
        .filter(shows)
        .map((transaction) => ({ recorded: log.recorded, transaction })),
    );
    // The latest are what a limit keeps; they stand at the end, as in any log.
    const shown = Number.isFinite(wish.limit) ? all.slice(-wish.limit) : all;
    if (json) {
      const transactions = shown.map((each) => transactionObject(each.recorded, each.transaction));
      io.stdout(`${JSON.stringify({ transactions })}\n`);
    } else if (shown.length === 0) io.stdout("No DNS transactions.\n");
    else io.stdout(`${dnsTable(widePage(io), shown).join("\n")}\n`);
    return;
  }

  const several = logs.all.length > 1;
  const followed = logs.all.map((log) => ({ log, news: new TransactionNews() }));
  await follow(session, logs.all, (last) => {
    for (const { log, news } of followed) {
      const due = watch.date() - (last ? 0 : patience);
      for (const transaction of news.next(log.read(), due)) {
        if (!shows(transaction)) continue;
        if (json) io.stdout(`${JSON.stringify(transactionObject(log.recorded, transaction))}\n`);
        else io.stdout(`${dnsLine(transaction, several ? log.recorded.record.id.ifname : "")}\n`);
      }
      if (news.missed > 0) io.stderr(`${news.missed} transactions were overwritten before they were read\n`);
    }
  });
}

/** Transactions that were not told yet: each once when it is answered, or once when it is not waited for any more. */
class TransactionNews {
  /** Of the last look: how many came and went between two looks. */
  missed = 0;
  #told = new Map<number, "answered" | "unanswered">();
  #newest = 0;

  /** @param due what was asked before is told also without an answer. */
  next(transactions: Transaction[], due: number): Transaction[] {
    const oldest = transactions[0]?.sequence ?? 0;
    this.missed = this.#newest > 0 && oldest > this.#newest + 1 ? oldest - this.#newest - 1 : 0;
    this.#newest = Math.max(this.#newest, transactions.at(-1)?.sequence ?? 0);
    const told = new Map<number, "answered" | "unanswered">();
    const news = transactions.filter(({ sequence, asked, answer }) => {
      const before = this.#told.get(sequence);
      const now = answer ? "answered" : asked < due ? "unanswered" : undefined;
      const said = now ?? before;
      if (said) told.set(sequence, said);
      return now !== undefined && now !== before;
    });
    this.#told = told;
    return news;
  }
}

// ---- following ---------------------------------------------------------------------------------------------------

/** Looks at every interval, and a last time when the user stops it or a log is taken away. */
async function follow<Item>(
  { watch, wish, io }: Session,
  logs: Log<Item>[],
  look: (last: boolean) => void,
): Promise<void> {
  let due = watch.now();
  for (;;) {
    look(false);
    due = Math.max(due + wish.interval, watch.now());
    while (watch.now() < due && !watch.stopped) await watch.pause(due - watch.now());
    const gone = logs.find((log) => log.state() === "gone");
    if (gone || watch.stopped) {
      look(true);
      if (gone)
        io.stderr(
          `${printable(ownerOf(gone.recorded.status))}: the chain was changed or removed, and its log has ended\n`,
        );
      return;
    }
    const moved = logs.filter((log) => log.state() === "moved");
    if (moved.length === 0) continue;
    look(false); // what the former map holds
    for (const log of moved) log.move();
  }
}
