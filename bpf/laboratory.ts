// SPDX-License-Identifier: Apache-2.0
/**
 * Runs the programs of this folder in tests, as a node runs them: compiled like the library, parameters from text,
 * loaded as stages of a chain through the kernel port.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Namespace, type Scratch, scratch } from "../e2e/lib/scratch.ts";
import { readParameters, setParameter } from "../plugin/catalog/parameters.ts";
import { mapTags } from "../plugin/catalog/tags.ts";
import { createNativeKernel } from "../plugin/kernel/native.ts";
import {
  counterLayout,
  type Direction,
  type Fd,
  type KernelPort,
  type Stage,
  type TestRunRequest,
  type TestRunResult,
} from "../plugin/kernel/port.ts";
import { type Decoded, decode, decodeSum, splitCpus } from "../plugin/values/decode.ts";

export interface Wanted {
  /** The program's name: `acl` of `acl.bpf.c`. */
  program: string;
  entry: string;
  params?: Record<string, string>;
  /** The member of another chain whose maps it shares (those that both have), as the two directions of a program do. */
  sharing?: Member | undefined;
}

export interface Member {
  stage: Stage;
  /** The u64 words of a per-CPU map's only entry, summed over the CPUs. */
  totals(map: string): number[];
  /** What a map holds, decoded by BTF; of a per-CPU map the sums. */
  contents(map: string): { key: Decoded; value: Decoded }[];
}

/** A loaded chain. `run` sends a packet through it all, by prog_test_run. */
export interface Chain {
  /** Its first program: what is attached. */
  head: Fd;
  members: Member[];
  /** The verdict. */
  run(packet: Buffer, context?: TestRunRequest["context"]): number;
  /** The verdict, and the packet, mark and priority as the chain leaves them. */
  pass(packet: Buffer, context?: TestRunRequest["context"]): TestRunResult;
}

export interface Laboratory extends Disposable {
  kernel: KernelPort;
  world: Scratch;
  chain(wanted: Wanted[]): Chain;
  /** Attaches the chain by TCX, until the laboratory is closed. */
  attach(chain: Chain, namespace: Namespace, ifname: string, direction: Direction): void;
}

/** TC_ACT_UNSPEC, TC_ACT_OK and TC_ACT_PIPE: what goes on by default. */
const proceedOn = [-1, 0, 3];

const key = (index: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(index);
  return bytes;
};

/** Compiled once in a process, whatever the number of laboratories. */
const objects = new Map<string, Buffer>();

function objectOf(program: string): Buffer {
  let object = objects.get(program);
  if (!object) {
    using world = scratch();
    object = readFileSync(world.compile(join(import.meta.dirname, `${program}.bpf.c`), { flags: ["-Wextra"] }));
    objects.set(program, object);
  }
  return object;
}

export function laboratory(): Laboratory {
  const world = scratch();
  const kernel = createNativeKernel();
  const open: Fd[] = [];
  const keep = (fd: Fd): Fd => {
    open.push(fd);
    return fd;
  };

  const chain = (wanted: Wanted[]): Chain => {
    const length = wanted.length;
    const array = keep(
      kernel.createMap({ type: "prog_array", name: "chain", keySize: 4, valueSize: 4, maxEntries: length }),
    );
    const counters = keep(
      kernel.createMap({
        type: "percpu_array",
        name: "counters",
        keySize: 4,
        valueSize: counterLayout.words * 8,
        maxEntries: length,
      }),
    );
    const told: Fd[] = [];
    const members = wanted.map(({ program, entry, params = {}, sharing }, position): Member => {
      const object = objectOf(program);
      const info = kernel.inspectObject(object);
      const parameters = readParameters(program, info);
      const stage = kernel.loadStage({
        object,
        name: program,
        entries: [
          {
            function: entry,
            parameters: Object.entries(params).flatMap(([name, text]) => setParameter(parameters, name, text).bytes),
          },
        ],
        position,
        length,
        proceedOn,
        failurePolicy: "closed",
        chain: array,
        counters,
        countHead: position === 0,
        endings: [...told],
        reuse: (sharing?.stage.maps ?? []).filter(
          ({ name }) => !name.includes(".rodata") && info.maps.some((map) => map.name === name),
        ),
      });
      keep(stage.program);
      for (const map of stage.maps) keep(map.fd);
      kernel.updateMap(array, key(position), key(stage.program));
      const ending = info.maps.filter(({ tags }) => mapTags(tags).told === "ending").map(({ name }) => name);
      told.push(...stage.maps.filter(({ name }) => ending.includes(name)).map(({ fd }) => fd));
      return { stage, totals: (name) => totals(stage, name), contents: (name) => contents(stage, name) };
    });
    const head = members[0]?.stage.program;
    if (head === undefined) throw new Error("a chain has at least one program");
    const pass = (packet: Buffer, context?: TestRunRequest["context"]) =>
      kernel.testRun({ program: head, packet, ...(context ? { context } : {}) });
    return { head, members, run: (packet, context) => pass(packet, context).verdict, pass };
  };

  const contents = (stage: Stage, name: string): { key: Decoded; value: Decoded }[] => {
    const map = stage.maps.find((candidate) => candidate.name === name);
    const types = map && kernel.mapTypes(map.fd);
    if (!map || !types) throw new Error(`there is no map ${name}, or it has no BTF`);
    const { type, valueSize, maxEntries } = kernel.mapInfo(map.fd);
    const perCpu = type.includes("percpu");
    return kernel.mapEntries(map.fd, maxEntries).entries.map(({ key, value }) => ({
      key: decode(types.key, key),
      value: perCpu ? decodeSum(types.value, splitCpus(value, valueSize)) : decode(types.value, value),
    }));
  };

  const totals = (stage: Stage, name: string): number[] => {
    const map = stage.maps.find((candidate) => candidate.name === name);
    const bytes = map && kernel.lookupMap(map.fd, key(0));
    if (!map || !bytes) throw new Error(`there is no map ${name}, or nothing in it`);
    const words = kernel.mapInfo(map.fd).valueSize / 8;
    const sums = Array.from({ length: words }, () => 0);
    for (let at = 0; at < bytes.length / 8; at++)
      sums[at % words] = (sums[at % words] ?? 0) + Number(bytes.readBigUInt64LE(at * 8));
    return sums;
  };

  return {
    kernel,
    world,
    chain,
    attach(chain, { path: netns }, ifname, direction) {
      const { ifindex } = kernel.findInterface(netns, ifname);
      keep(kernel.attachTcx({ program: chain.head, netns, ifindex, direction }));
    },
    [Symbol.dispose]() {
      for (const fd of open.reverse()) kernel.close(fd);
      world[Symbol.dispose]();
    },
  };
}
