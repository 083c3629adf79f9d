// SPDX-License-Identifier: Apache-2.0
/**
 * What two pods notice: the throughput of one TCP stream (iperf3) and how long a request and its response take
 * (sockperf), routed over the node as ptp does it. Run it in a network namespace of its own: that one is the node.
 *
 * A virtual machine's speed changes from second to second by more than any chain costs. So there are two pairs of pods, one
 * of them with the chain, and their streams run in turns of a twentieth of a second: while one does, the other's sender is
 * stopped. What is compared are neighbouring turns. Two connections differ as well; so each round has new ones, and the
 * chain is on the other pair; what is told is the median of the rounds. Two pairs without a chain differ by less than one per
 * cent in the end.
 *
 * The two ends of a stream have a processor each: left to the scheduler, some share one and some do not. And the stream is
 * cubic's, the kernel's own default: BBR, which some machines have instead, sends at the rate that it believes in, not as
 * fast as the path allows.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { pause } from "../e2e/lib/pause.ts";
import { type Namespace, run, type Scratch, scratch } from "../e2e/lib/scratch.ts";
import { median, table } from "./figures.ts";
import { type Asked, empty, fourPrograms, fourStateful, library } from "./library.ts";

const dist = resolve(import.meta.dirname, "../dist");
/** iperf3's processors, of the client and of the server. */
const affinity = availableParallelism() > 1 ? "0,1" : "0,0";
/** Milliseconds: of a turn; before it counts; of a stream, until it runs at its speed. */
const [turn, settling, starting] = [50, 10, 500];
/** Rounds after which the chain was on each pair, and on each of its pods. */
const cycle = 4;

/** `cycles`: of four rounds, for each chain and for the chains of four; `turns` with the chain in a round; `latency`: seconds. */
export function pods(options: { cycles: number; cyclesOfFour: number; turns: number; latency: number }): string {
  using world = scratch();
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  cpSync(join(dist, "programs"), programs, { recursive: true });
  cpSync(world.compile(empty), join(programs, "empty.bpf.o"));
  run("ip", "link", "set", "lo", "up");
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
  const pairs = [new Pair(world, 1), new Pair(world, 3)] as const;
  using _first = pairs[0].serve(options.latency);
  using _second = pairs[1].serve(options.latency);

  const remora = (verb: string, pod: Pod, ...rest: string[]): void => {
    const place = ["--netns", pod.namespace.path, "--ifname", "eth0", "--bpffs", join(world.bpffs(), "remora")];
    run(join(dist, "remora"), verb, ...place, ...rest);
  };
  const compare = (chain: Asked[], on: On, round: number): Compared => {
    const pair = pairs[round % 2] as Pair;
    const other = pairs[(round + 1) % 2] as Pair;
    const one = Math.floor(round / 2) % 2 === 0 ? pair.client : pair.server;
    const targets = on === "both pods" ? [pair.client, pair.server] : [one];
    for (const pod of targets) remora("attach", pod, "--dir", programs, "--programs", JSON.stringify(chain));
    try {
      const { rate, otherRate, share } = takeTurns(pair, other, options.turns);
      // The latency of a few rounds tells enough.
      const wait = (who: Pair): number[] => (round < cycle ? [who.latency(options.latency)] : []);
      return { without: { rate: otherRate, wait: wait(other) }, beside: { rate, wait: wait(pair) }, share };
    } finally {
      for (const pod of targets) remora("detach", pod);
    }
  };
  const four = (chain: Asked[], on: On): Row => ({
    name: `${chain.map(({ program }) => program).join(", ")}: ${on}`,
    chain,
    on,
    rounds: options.cyclesOfFour * cycle,
  });
  const single = (name: string, chain: Asked[]): Row => ({
    name,
    chain,
    on: "one pod",
    rounds: options.cycles * cycle,
  });
  const rows = [
    single("empty chain", [{ program: "empty", params: {} }]),
    ...library.map((asked) => single(asked.program, [asked])),
    ...[fourPrograms, fourStateful].flatMap((chain) => [four(chain, "one pod"), four(chain, "both pods")]),
  ];
  const results = rows.map(() => [] as Compared[]);
  for (let round = 0; round < Math.max(...rows.map(({ rounds }) => rounds)); round++)
    for (const [index, { chain, on, rounds }] of rows.entries())
      if (round < rounds) results[index]?.push(compare(chain, on, round));

  const bare = results.flatMap((compared) => compared.map(({ without }) => without));
  const printed = rows.map(({ name }, index) => {
    const compared = results[index] ?? [];
    const shares = compared.map(({ share }) => share);
    const [without, beside] = [compared.map((one) => one.without), compared.map((one) => one.beside)];
    return [
      ...figures(name, beside),
      percent(median(shares)),
      `${percent(Math.min(...shares))} to ${percent(Math.max(...shares))}`,
      `${(median(beside.flatMap(({ wait }) => wait)) - median(without.flatMap(({ wait }) => wait))).toFixed(1)} us`,
    ];
  });
  const heading = ["chain", "throughput", "half a round trip", "of none", "in single rounds", "more than none"];
  const how = `streams that take turns of ${turn} ms with others without a chain, each round in new connections;\na chain is in both directions of one pod, the sender's and the receiver's in turn, where it does not say both`;
  return `Pod to pod, TCP: ${how}\n${table([heading, [...figures("none", bare), "", "", ""], ...printed])}`;
}

const figures = (name: string, measured: Measured[]): string[] => [
  name,
  `${median(measured.map(({ rate }) => rate)).toFixed(1)} Gbit/s`,
  `${median(measured.flatMap(({ wait }) => wait)).toFixed(1)} us`,
];
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

type On = "one pod" | "both pods";
interface Row {
  name: string;
  chain: Asked[];
  on: On;
  rounds: number;
}
/** Gbit/s; microseconds, where they were measured. */
interface Measured {
  rate: number;
  wait: number[];
}
/** `share`: the part of the throughput that is left with the chain. */
interface Compared {
  without: Measured;
  beside: Measured;
  share: number;
}

/** Runs a stream of each pair, in turns: their rates, and the one's share of what the other's has before and after it. */
function takeTurns(pair: Pair, other: Pair, count: number): { rate: number; otherRate: number; share: number } {
  using first = pair.stream();
  first.pause();
  using second = other.stream();
  second.pause();
  first.resume();
  let running = first;
  const measure = (stream: Stream): number => {
    if (stream !== running) {
      running.pause();
      stream.resume();
      running = stream;
    }
    pause(settling);
    return stream.rate(turn);
  };
  const [rates, others] = [[] as number[], [measure(second)]];
  for (let index = 0; index < count; index++) {
    rates.push(measure(first));
    others.push(measure(second));
  }
  const shares = rates.map((rate, index) => (2 * rate) / ((others[index] ?? 0) + (others[index + 1] ?? 0)));
  // On a machine with other work a stream may not get a turn at all.
  return { rate: median(rates), otherRate: median(others), share: median(shares.filter(Number.isFinite)) };
}

/** Two pods, of which one talks to the other. */
class Pair {
  readonly client: Pod;
  readonly server: Pod;
  readonly #device: string;

  constructor(world: Scratch, index: number) {
    this.client = podOf(world, index);
    this.server = podOf(world, index + 1);
    this.#device = `pod${index + 1}`;
    // A stream that was stopped goes on as it was.
    this.client.namespace.exec("sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_slow_start_after_idle");
  }

  serve(latency: number): Disposable {
    const { namespace, address } = this.server;
    const servers = new DisposableStack();
    servers.use(daemon(namespace, "iperf3", "--server"));
    const sockperf = servers.use(daemon(namespace, "sockperf", "server", "--tcp", "--ip", address));
    sockperf.await(() => this.latency(latency));
    return servers;
  }

  /** The server may still have to learn that the last one is gone. */
  stream(): Stream {
    const words = `--client ${this.server.address} --time 3600 --affinity ${affinity} --congestion cubic`;
    const begin = (): Stream => {
      const stream = new Stream(this.client.namespace, words.split(" "), this.#device);
      pause(starting);
      if (stream.rate(turn) > 0) return stream;
      stream[Symbol.dispose]();
      throw new Error("iperf3 sends nothing");
    };
    return again(9, begin, 200);
  }

  /** Microseconds of half a round trip, a median. */
  latency(seconds: number): number {
    const argv = ["ping-pong", "--tcp", "--ip", this.server.address, "--time", String(seconds)];
    // Now and then sockperf waits for ever for its own server.
    const said = again(3, () => this.client.namespace.exec("timeout", String(seconds + 9), "sockperf", ...argv));
    const [, text] = /percentile 50\.000 = +([\d.]+)/.exec(said) ?? [];
    if (text === undefined) throw new Error("sockperf prints no median");
    return Number(text);
  }
}

/** iperf3 that sends until the block ends; what arrives is read off the device that leads to the receiver. */
class Stream implements Disposable {
  readonly #child: ChildProcess;
  readonly #device: string;

  constructor(namespace: Namespace, argv: string[], device: string) {
    this.#child = spawn("ip", ["netns", "exec", namespace.name, "iperf3", ...argv], { stdio: "ignore" });
    this.#device = device;
  }

  pause(): void {
    this.#child.kill("SIGSTOP");
  }

  resume(): void {
    this.#child.kill("SIGCONT");
  }

  /** Gbit/s during so many milliseconds. */
  rate(milliseconds: number): number {
    const [bytes, begun] = [this.#bytes(), process.hrtime.bigint()];
    pause(milliseconds);
    return (8 * (this.#bytes() - bytes)) / Number(process.hrtime.bigint() - begun);
  }

  #bytes(): number {
    const [, line = ""] = new RegExp(`${this.#device}:(.*)`).exec(readFileSync("/proc/self/net/dev", "utf8")) ?? [];
    return Number(line.trim().split(/\s+/)[8]);
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

/** Does something that may fail, so many times at most. `rest`: milliseconds in between. */
export function again<T>(times: number, act: () => T, rest = 0): T {
  for (let attempt = 1; ; attempt++)
    try {
      return act();
    } catch (error) {
      if (attempt === times) throw error;
      pause(rest);
    }
}

export interface Pod {
  namespace: Namespace;
  address: string;
}

/** A pod with `eth0`, whose other end is on the node and leads to it alone. */
export function podOf(world: Scratch, index: number): Pod {
  const namespace = world.namespace();
  const [gateway, address, device] = [`10.98.${index}.1`, `10.98.${index}.2`, `pod${index}`];
  run("ip", "link", "add", device, "type", "veth", "peer", "eth0", "netns", namespace.name);
  run("ip", "addr", "add", `${gateway}/24`, "dev", device);
  run("ip", "link", "set", device, "up");
  for (const words of [`addr add ${address}/24 dev eth0`, "link set eth0 up", `route add default via ${gateway}`])
    namespace.exec("ip", ...words.split(" "));
  return { namespace, address };
}

/** A server of the namespace, ended with the block. */
export function daemon(namespace: Namespace, command: string, ...argv: string[]) {
  const child: ChildProcess = spawn("ip", ["netns", "exec", namespace.name, command, ...argv], { stdio: "ignore" });
  return {
    /** Waits until what asks the server is answered. */
    await(ask: () => unknown): void {
      again(50, ask, 100);
    },
    [Symbol.dispose]() {
      child.kill("SIGKILL");
    },
  };
}
