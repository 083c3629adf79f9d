// SPDX-License-Identifier: Apache-2.0
/** `remora trace`: packets of a pod, hop by hop through its chain. */

import { closeSync, openSync, writeSync } from "node:fs";
import { openCatalog } from "../catalog/catalog.ts";
import { chainPlaces, directionAt } from "../chain/places.ts";
import type { AttachmentRecord, RecordedStage } from "../chain/record.ts";
import { type LiveTrace, startTrace } from "../chain/tracing.ts";
import { code, RemoraError } from "../errors.ts";
import { type Direction, directions, type EventReader, KernelError, type KernelPort } from "../kernel/port.ts";
import type { Selected } from "../model.ts";
import { select } from "../select/select.ts";
import { type Chains, describeWay, isDropped, type Journey, Journeys } from "../trace/journey.ts";
import { type Flow, readFlow } from "../trace/packet.ts";
import { enhancedPacket, interfaceDescription, linkType, sectionHeader } from "../trace/pcapng.ts";
import { writing } from "../writing.ts";
import { type Arguments, type Command, type Io, UsageError, type Watch } from "./command.ts";
import { type Recorded, recordsOf } from "./records.ts";
import { ownerOf } from "./selector.ts";
import { pageFor, paragraph, printable } from "./terminal.ts";
import { type FlowFilter, readFilter } from "./trace-filter.ts";

/** Bytes of the ring buffer between the kernel and here: some 50,000 events. */
const ringSize = 4 << 20;
/** Milliseconds: between two looks into an empty ring buffer, and between two looks whether the chain is still ours. */
const idle = 20;
const glance = 250;
/** Nanoseconds after which the rest of a packet is not waited for. */
const patience = 2_000_000_000n;

export const command: Command = {
  operands: "POD",
  maxOperands: 1,
  options: {
    direction: { type: "string", value: "D", help: "ingress or egress only" },
    proto: { type: "string", value: "P", help: "only this protocol: tcp, udp, icmp, icmp6, arp, ... or a number" },
    port: { type: "string", value: "N", help: "only from or to this port" },
    addr: { type: "string", value: "A", help: "only from or to this address or prefix" },
    "only-dropped": { type: "boolean", help: "only packets that a program or a broken chain dropped" },
    count: { type: "string", value: "N", help: "end after N packets were shown" },
    sample: { type: "string", value: "1/N", help: "look at one packet in N" },
    bytes: { type: "string", value: "N", help: "of each packet, up to 16384 (default 128)" },
    write: { type: "string", short: "w", value: "FILE", help: "write a pcapng file instead" },
  },
  help: `
Shows the packets of a pod on their way through its chains: when, in which direction, from whom to
whom, how long, and which program gave which verdict, up to why the way ended. The pod is a name,
namespace/name, a container id, or the beginning of one. Ends with Ctrl-C, or after --count packets.

While it runs, packets meet the same programs with the same maps, in stages that also report; it
changes no verdict and loses no packet. Without it nothing is reported, and nothing costs. Filters
choose among what was reported, --sample reports less: on a busy pod it is what saves work. What
could not be reported in time is counted and said at the end.

-w FILE writes the packets for Wireshark and tshark, each with its way through the chain as its
comment. --json prints one object a line: {"time","pod","containerId","ifname","direction","at",
"protocol","source","destination","sourcePort","destinationPort","detail","length","mark",
"hops":[{"position","program","verdict","length","mark"}],"end":{"how","why"},"dropped"}.`,
  async run({ args, io, tools, json, bpffs }) {
    const [selector] = args.positionals;
    if (selector === undefined) throw new UsageError("whose packets? Give a pod: remora trace POD");
    const wish = readWish(args);
    if (io.watch === undefined) throw new Error("trace needs a clock");
    const kernel = await tools.kernel();
    const recorded = recordsOf(kernel, bpffs, selector).filter(({ record }) =>
      placesOf(wish).some((place) => record.chains[place]),
    );
    if (recorded.length === 0)
      throw new RemoraError(code.unknownProgram, `${selector} has no programs for ${wish.directions.join(" or ")}`);
    using watch = await io.watch();
    using output = openOutput(wish, recorded, { io, json, kernel, watch });
    const traces = await startAll(kernel, recorded, wish);
    io.stderr(`tracing ${recorded.map(chainsInWords(wish)).join("; ")}; Ctrl-C ends\n`);
    let summary = "";
    try {
      await follow(kernel, traces, wish, watch, output);
      summary = summaryOf(traces, output);
    } finally {
      await endAll(kernel, traces);
    }
    io.stderr(`${summary}\n`);
    return 0;
  },
};

// ---- what is asked for -------------------------------------------------------------------------------------------

interface TraceWish {
  directions: Direction[];
  shows: FlowFilter;
  onlyDropped: boolean;
  count: number;
  sample: number;
  bytes: number;
  file: string | undefined;
}

function readWish(args: Arguments): TraceWish {
  const direction = args.text("direction");
  const chosen = directions.filter((each) => direction === undefined || each === direction);
  if (chosen.length === 0) throw new UsageError(`--direction ${direction}: give ingress or egress`);
  const [, sample = ""] = /^(?:1\/)?([1-9]\d{0,8})$/.exec(args.text("sample") ?? "1") ?? [];
  if (sample === "") throw new UsageError(`--sample ${args.text("sample")}: give 1/N, such as 1/100`);
  return {
    directions: chosen,
    shows: readFilter(args),
    onlyDropped: args.flag("only-dropped"),
    count: whole(args, "count", 1e9) ?? Number.POSITIVE_INFINITY,
    sample: Number(sample),
    bytes: whole(args, "bytes", 16384) ?? 128,
    file: args.text("write"),
  };
}

function whole(args: Arguments, name: string, most: number): number | undefined {
  const text = args.text(name);
  if (text === undefined) return undefined;
  const value = /^\d{1,10}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > most) throw new UsageError(`--${name} ${text}: give a whole number from 1 to ${most}`);
  return value;
}

// ---- beginning and ending ----------------------------------------------------------------------------------------

interface Traced {
  recorded: Recorded;
  live: LiveTrace;
  reader: EventReader;
  journeys: Journeys;
}

/** All of them, or none. */
async function startAll(kernel: KernelPort, recorded: Recorded[], wish: TraceWish): Promise<Traced[]> {
  const traces: Traced[] = [];
  try {
    for (const one of recorded) {
      const again = await sameProgramsOf(kernel, one.record);
      const live = await startTrace(kernel, one.pins, again, {
        directions: wish.directions,
        sample: wish.sample,
        bytes: wish.bytes,
        size: ringSize,
      });
      let reader: EventReader;
      try {
        reader = kernel.openEvents(live.events);
      } catch (error) {
        await live.end();
        throw error;
      }
      traces.push({ recorded: one, live, reader, journeys: new Journeys(chainsOf(live.record)) });
    }
    return traces;
  } catch (error) {
    await endAll(kernel, traces);
    throw error;
  }
}

async function endAll(kernel: KernelPort, traces: Traced[]): Promise<void> {
  const errors: unknown[] = [];
  for (const { live, reader } of traces) {
    try {
      kernel.closeEvents(reader);
      await live.end();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/** Selects a stage's program as the record says, and requires that the program directory still holds the same object. */
async function sameProgramsOf(
  kernel: KernelPort,
  record: AttachmentRecord,
): Promise<(stage: RecordedStage) => Selected> {
  const catalog = await openCatalog(record.programDirs, kernel);
  const known = new Map<number, Selected>();
  return ({ entries: [entry] }) => {
    if (entry === undefined) throw new Error("a stage without a program");
    const before = known.get(entry.selection);
    if (before) return before;
    const { program, params, priority, at, sha256 } = entry;
    const config = { chain: [{ program, params, priority, at }], allow: {}, failurePolicy: "closed" as const };
    const [selected] = select({ config, annotations: undefined, pod: null, catalog, running: true }).selected;
    if (selected?.program.sha256 !== sha256)
      throw new RemoraError(
        code.unknownProgram,
        `program ${program} is not the one any more that is attached (its object in ${record.programDirs.join(", ")} ` +
          "has changed since), so it cannot be traced: remora apply brings the new one in first",
      );
    known.set(entry.selection, selected);
    return selected;
  };
}

function chainsOf({ chains }: AttachmentRecord): Chains {
  return chainPlaces.map((place) => {
    const stages = chains[place]?.stages.map(({ entries, proceedOn }) => ({
      program: entries.map(({ program }) => program).join("+"),
      proceedOn,
    }));
    return stages && { direction: directionAt(place), at: place === "host" ? "host" : "pod", stages };
  });
}

/** A direction's chains: egress has one in the pod, and may have one at the host's end. */
function placesOf({ directions: chosen }: TraceWish): (typeof chainPlaces)[number][] {
  return chainPlaces.filter((place) => chosen.includes(directionAt(place)));
}

function chainsInWords(wish: TraceWish): (recorded: Recorded) => string {
  return ({ status, record }) => {
    const chains = chainsOf(record);
    const words = chains.flatMap((chain) =>
      chain && wish.directions.includes(chain.direction)
        ? [`${placeInWords(chain)} ${chain.stages.map(({ program }) => program).join(" > ")}`]
        : [],
    );
    return printable(`${ownerOf(status)} ${record.id.ifname}: ${words.join(", ")}`);
  };
}

// ---- following ---------------------------------------------------------------------------------------------------

/** Reads and shows, until enough was shown, the user stops it, or the chain is no longer the one that is traced. */
async function follow(
  kernel: KernelPort,
  traces: Traced[],
  wish: TraceWish,
  watch: Watch,
  output: Output,
): Promise<void> {
  let looked = watch.now();
  for (;;) {
    let taken = 0;
    for (const { recorded, reader, journeys } of traces) {
      const events = kernel.readEvents(reader, 4096);
      taken += events.length;
      for (const event of events) {
        const journey = journeys.add(event);
        if (journey) output.show(recorded, journey);
        if (output.shown >= wish.count) return;
      }
      journeys.forget(watch.monotonic() - patience);
    }
    // Also where there is always more to read: signals and keys must have their turn.
    if ((await watch.pause(taken > 0 ? 0 : idle)) === "stopped") return;
    if (watch.now() - looked < glance) continue;
    looked = watch.now();
    const ended = traces.find(({ live }) => !isActive(live));
    if (ended === undefined) continue;
    output.say(`the chain of ${ownerOf(ended.recorded.status)} was changed or removed, so the trace of it has ended`);
    return;
  }
}

function isActive(live: LiveTrace): boolean {
  try {
    return live.active();
  } catch (error) {
    if (error instanceof KernelError) return false;
    throw error;
  }
}

function summaryOf(traces: Traced[], { shown, dropped }: Output): string {
  const lost = traces.reduce((sum, { live }) => sum + live.lost(), 0);
  const incomplete = traces.reduce((sum, { journeys }) => sum + journeys.incomplete, 0);
  const missing = lost + incomplete > 0 ? `; ${lost} events were lost, ${incomplete} packets are not whole` : "";
  return `${shown} ${shown === 1 ? "packet" : "packets"}, ${dropped} dropped${missing}`;
}

// ---- showing -----------------------------------------------------------------------------------------------------

interface Output extends Disposable {
  readonly shown: number;
  readonly dropped: number;
  /** Where the filters let it through. */
  show(recorded: Recorded, journey: Journey): void;
  say(text: string): void;
}

function openOutput(
  wish: TraceWish,
  all: Recorded[],
  { io, json, kernel, watch }: { io: Io; json: boolean; kernel: KernelPort; watch: Watch },
): Output {
  // The events' clock against the wall's, once: what is shown keeps its order and its distances.
  const epoch = BigInt(watch.date()) * 1_000_000n - watch.monotonic();
  const ethernet = new Map(all.map((one) => [one, hasEthernet(kernel, one.record)]));
  const file = wish.file === undefined ? undefined : openFile(wish, all, ethernet);
  const page = pageFor(io);
  let shown = 0;
  let dropped = 0;
  return {
    get shown() {
      return shown;
    },
    get dropped() {
      return dropped;
    },
    say: (text) => io.stderr(`${printable(text)}\n`),
    show(recorded, journey) {
      const drop = isDropped(journey);
      if (wish.onlyDropped && !drop) return;
      const flow = readFlow(journey.bytes, ethernet.get(recorded) ?? true);
      if (!wish.shows(flow)) return;
      shown++;
      if (drop) dropped++;
      const time = epoch + journey.time;
      file?.write(recorded, journey, time);
      if (json) io.stdout(`${JSON.stringify(objectOf(recorded, journey, flow, time, drop))}\n`);
      else if (file === undefined) {
        const way = paragraph(page, describeWay(journey), 16, drop ? "bad" : "plain");
        io.stdout(`${clock(time)}  ${headline(recorded, all, journey, flow)}\n${way.join("\n")}\n`);
      }
    },
    [Symbol.dispose]: () => file?.close(),
  };
}

function hasEthernet(kernel: KernelPort, record: AttachmentRecord): boolean {
  return kernel.findInterface(record.netns, record.id.ifname).mac !== "";
}

/** Hours to microseconds of the local day. */
function clock(time: bigint): string {
  const date = new Date(Number(time / 1_000_000n));
  const two = (number: number): string => String(number).padStart(2, "0");
  const micros = String((time / 1000n) % 1_000_000n).padStart(6, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${micros}`;
}

/** `egress at host`: what passes there has passed the pod's own chain. */
function placeInWords({ direction, at }: Pick<Journey, "direction" | "at">): string {
  return at === "host" ? `${direction} at host` : direction;
}

function headline({ record }: Recorded, all: Recorded[], journey: Journey, flow: Flow): string {
  const end = (address: string | undefined, port: number | undefined): string =>
    port === undefined ? (address ?? "") : address?.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  const ends =
    flow.source === undefined
      ? ""
      : `${end(flow.source, flow.sourcePort)} > ${end(flow.destination, flow.destinationPort)}`;
  const chain = placeInWords(journey);
  const place = all.length > 1 ? `${record.id.ifname} ${chain}` : chain;
  const words = [place.padEnd(7), flow.protocol, ends, flow.detail ?? "", `${journey.length} bytes`];
  return printable(words.filter((word) => word !== "").join("  "));
}

function objectOf({ status, record }: Recorded, journey: Journey, flow: Flow, time: bigint, drop: boolean) {
  const { direction, at, length, mark, hops, end } = journey;
  const seconds = new Date(Number(time / 1_000_000n)).toISOString().slice(0, 19);
  return {
    time: `${seconds}.${String(time % 1_000_000_000n).padStart(9, "0")}Z`,
    pod: status.pod,
    containerId: status.containerId,
    ifname: record.id.ifname,
    direction,
    at,
    ...flow,
    length,
    mark,
    hops,
    end,
    dropped: drop,
  };
}

/** A pcapng file with an interface for each one that is traced. */
function openFile({ file, bytes }: TraceWish, all: Recorded[], ethernet: Map<Recorded, boolean>) {
  const path = file ?? "";
  const fd = writing(`--write ${path}`, () => openSync(path, "w", 0o600));
  const put = (block: Buffer): void =>
    writing(`--write ${path}`, () => {
      for (let written = 0; written < block.length; ) written += writeSync(fd, block, written);
    });
  put(sectionHeader("remora trace"));
  for (const one of all)
    put(interfaceDescription(one.record.id.ifname, ethernet.get(one) ? linkType.ethernet : linkType.raw, bytes));
  return {
    write(recorded: Recorded, journey: Journey, time: bigint): void {
      const { direction, length } = journey;
      const comment = `${placeInWords(journey)}: ${describeWay(journey)}`;
      put(enhancedPacket({ interface: all.indexOf(recorded), time, bytes: journey.bytes, length, direction, comment }));
    },
    close: () => closeSync(fd),
  };
}
