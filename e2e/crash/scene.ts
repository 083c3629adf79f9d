// SPDX-License-Identifier: Apache-2.0
/** What the crash tests do things to: an attachment, and the verbs that make, change and remove it. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCatalog } from "../../plugin/catalog/catalog.ts";
import { change } from "../../plugin/chain/change.ts";
import { asRemoraError } from "../../plugin/chain/explain.ts";
import { findHostEnd } from "../../plugin/chain/places.ts";
import { plan } from "../../plugin/chain/plan.ts";
import type { KernelPort } from "../../plugin/kernel/port.ts";
import type { HookName, NodeConfig } from "../../plugin/model.ts";
import { select } from "../../plugin/select/select.ts";
import { keepLog, request } from "../../plugin/verbs/fixture.ts";
import { createVerbs } from "../../plugin/verbs/index.ts";
import { run, type Scratch } from "../lib/scratch.ts";

/** As text from one process to another. */
export interface Scene {
  /** The folder of the programs. */
  programs: string;
  bpffs: string;
  netns: string;
  hook: HookName;
}

const heading = `
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "Dual BSD/GPL";
`;
/** One program with a map that both directions share and one of the node's, and one with a PROG_ARRAY of its own. */
const sources = {
  first: {
    text: `${heading}
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64);
         __uint(pinning, LIBBPF_PIN_BY_NAME); } seen SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } all SEC(".maps");
static int see(void) { __u32 key = 0; __u64 *one = bpf_map_lookup_elem(&seen, &key), *of = bpf_map_lookup_elem(&all, &key);
                       if (one && of) { __sync_fetch_and_add(one, 1); __sync_fetch_and_add(of, 1); } return -1; }
SEC("tc/ingress") int from_wire(struct __sk_buff *skb) { return see(); }
SEC("tc/egress") int to_wire(struct __sk_buff *skb) { return see(); }
`,
    manifest: "maps: {all: node}\n",
  },
  second: {
    text: `${heading}
int deeper(struct __sk_buff *skb);
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 1); __type(key, __u32);
         __array(values, int(struct __sk_buff *)); } steps SEC(".maps") = { .values = { [0] = (void *)&deeper } };
SEC("tc/deeper") int deeper(struct __sk_buff *skb) { return -1; }
SEC("tc/ingress") int parse(struct __sk_buff *skb) { bpf_tail_call(skb, &steps, 0); return -1; }
`,
    manifest: "entry: {ingress: parse}\n",
  },
  wall: {
    text: `${heading}
SEC("tc/egress") int stop(struct __sk_buff *skb) { return -1; }
`,
    manifest: "at: host\n",
  },
} as const;

/** Three links: both directions in the pod, and one at the host's end; or two filters. */
const [first, second, wall] = [{ program: "first" }, { program: "second" }, { program: "wall" }];
/** Nothing stands at the host's end where there is no TCX. */
const chainOf = (hook: HookName, ...chain: NodeConfig["chain"]) => (hook === "tcx" ? [...chain, wall] : chain);

/** `half`: packets meet the chain at some of its places and not at the others. */
export type State = "attached" | "nothing" | "half";

/** Compiles the programs into a folder of the world's. */
export function compilePrograms(world: Scratch): string {
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  for (const [name, { text, manifest }] of Object.entries(sources)) {
    run("cp", world.compile({ text, name }), programs);
    writeFileSync(join(programs, `${name}.yaml`), manifest);
  }
  return programs;
}

export interface Verb {
  /** Makes what is there before. */
  prepare(kernel: KernelPort, scene: Scene): Promise<void>;
  /** What is there after a success. */
  after: State;
  /** What may be there when it has failed; and when it was killed, once gc has looked at it. */
  failed: readonly State[];
  /** Throws a RemoraError. */
  run(kernel: KernelPort, scene: Scene): Promise<void>;
}

export function verbsOf(kernel: KernelPort, { programs, bpffs, netns, hook }: Scene) {
  const log = keepLog();
  const verbs = createVerbs({ kernel: () => kernel, log });
  const asked = request(programs, bpffs, { netns, config: { hook, chain: chainOf(hook, first, second) } });
  return { verbs, asked, log };
}

async function add(kernel: KernelPort, scene: Scene): Promise<void> {
  const { verbs, asked } = verbsOf(kernel, scene);
  await verbs.add(asked);
}
/** What the last DEL has logged: it does not fail for what it cannot remove. */
export let lastWords: readonly string[] = [];

async function del(kernel: KernelPort, scene: Scene): Promise<void> {
  const { verbs, asked, log } = verbsOf(kernel, scene);
  lastWords = log.lines;
  await verbs.del(asked);
}

/** The other way round, so that the chains have new heads; and on egress in the pod nothing stands any more. */
async function apply(kernel: KernelPort, scene: Scene): Promise<void> {
  const { asked } = verbsOf(kernel, scene);
  const { pod, annotations, containerId, ifname } = asked;
  const turned = chainOf(scene.hook, second, { ...first, directions: ["ingress"] });
  const config = { ...asked.config, chain: turned };
  const id = { network: config.network, containerId, ifname };
  try {
    const catalog = await openCatalog(config.programDirs, kernel);
    const { selected, missing } = select({ config, annotations, pod, catalog });
    await change(kernel, scene.bpffs, id, ({ netns, generation }, device) => {
      const host = findHostEnd(kernel, { netns, ifname, selected });
      return plan({ id, netns, interface: device, host, pod, config, selected, missing, generation: generation + 1 });
    });
  } catch (error) {
    throw asRemoraError(error);
  }
}

async function nothing(): Promise<void> {}

const whole = ["attached", "nothing"] as const;

export const verbs = {
  ADD: { prepare: nothing, after: "attached", failed: whole, run: add },
  "ADD again": { prepare: add, after: "attached", failed: whole, run: add },
  apply: { prepare: add, after: "attached", failed: ["attached"], run: apply },
  DEL: { prepare: add, after: "nothing", failed: whole, run: del },
} as const satisfies Record<string, Verb>;
export type VerbName = keyof typeof verbs;
