// SPDX-License-Identifier: Apache-2.0
/** Chains for the kernel tests here: compiled fixtures, loaded in order, run with one packet. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Scratch } from "../e2e/lib/scratch.ts";
import { createNativeKernel } from "../plugin/kernel/native.ts";
import { counterLayout, type Ending, endings, type Fd, type Stage, type StageRequest } from "../plugin/kernel/port.ts";

export const kernel = createNativeKernel();

/** TC_ACT_* and TCX_NEXT. */
export const verdict = { unspec: -1, ok: 0, reclassify: 1, shot: 2, pipe: 3, stolen: 4, redirect: 7, trap: 8 } as const;

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

/** The object of native/fixtures/NAME.bpf.c. */
export function fixture(world: Scratch, name: string, flags: string[] = []): Buffer {
  return readFileSync(world.compile(join(import.meta.dirname, "fixtures", `${name}.bpf.c`), { flags }));
}

export interface Member extends Partial<Omit<StageRequest, "entries">> {
  object: Buffer;
  entry: string;
  parameters?: Record<string, Buffer>;
}

export interface Counted {
  headPackets: number;
  headBytes: number;
  endedBytes: number;
  endings: Partial<Record<Ending, number>>;
}

/** What a position has counted: the sum over all CPUs. Endings that never happened are left out. */
export function counted(counters: Fd, position: number): Counted {
  const row = kernel.lookupMap(counters, u32(position)) as Buffer;
  const words = counterLayout.words;
  const sum = Array.from({ length: words }, (_, word) => {
    let total = 0;
    for (let at = word * 8; at < row.length; at += words * 8) total += Number(row.readBigUInt64LE(at));
    return total;
  });
  const word = (index: number): number => sum[index] as number;
  return {
    headPackets: word(counterLayout.headPackets),
    headBytes: word(counterLayout.headBytes),
    endedBytes: word(counterLayout.endedBytes),
    endings: Object.fromEntries(
      endings.map((name, i) => [name, word(counterLayout.endings + i)] as const).filter(([, count]) => count > 0),
    ),
  };
}

/** A chain of the members in order. Positions of `missing` get no slot, as if they were gone. */
export class Chain implements Disposable {
  readonly map: Fd;
  readonly counters: Fd;
  readonly stages: Stage[] = [];

  constructor(members: Member[], missing: number[] = []) {
    this.map = kernel.createMap({ type: "prog_array", name: "chain", keySize: 4, valueSize: 4, maxEntries: 32 });
    this.counters = kernel.createMap({
      type: "percpu_array",
      name: "counters",
      keySize: 4,
      valueSize: counterLayout.words * 8,
      maxEntries: 32,
    });
    try {
      this.load(members, missing);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  private load(members: Member[], missing: number[]): void {
    for (const [position, { entry, parameters = {}, ...member }] of members.entries()) {
      const stage = kernel.loadStage({
        name: `member${position}`,
        position,
        length: members.length,
        proceedOn: [verdict.unspec, verdict.ok, verdict.pipe],
        failurePolicy: "closed",
        chain: this.map,
        counters: this.counters,
        countHead: position === 0,
        reuse: [],
        ...member,
        entries: [
          { function: entry, parameters: Object.entries(parameters).map(([name, bytes]) => ({ name, bytes })) },
        ],
      });
      this.stages.push(stage);
      if (!missing.includes(position)) kernel.updateMap(this.map, u32(position), u32(stage.program));
    }
  }

  run(packet: Buffer = Buffer.alloc(64)): { verdict: number; mark: number } {
    const result = kernel.testRun({ program: (this.stages[0] as Stage).program, packet });
    return { verdict: result.verdict, mark: result.context.mark };
  }

  counted(position: number): Counted {
    return counted(this.counters, position);
  }

  [Symbol.dispose](): void {
    for (const stage of this.stages) {
      kernel.close(stage.program);
      for (const map of stage.maps) kernel.close(map.fd);
    }
    kernel.close(this.map);
    kernel.close(this.counters);
  }
}
