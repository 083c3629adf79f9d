// SPDX-License-Identifier: Apache-2.0
/** Whatever a configuration holds, the answer is one of the two that CNI knows, and never Remora's own confusion. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { dispatch, type Verbs } from "./dispatch.ts";
import { goodConfiguration, goodEnvironment } from "./refusals.table.ts";

/** A small generator of its own (mulberry32), so that a failure can be had again from its seed. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const whole = {
  ...goodConfiguration,
  programDirs: ["/a"],
  chain: [{ program: "count", params: { rate: "1Mbit", on: true }, priority: 5, directions: ["egress"], at: "pod" }],
  allow: { "*": ["*"] },
  failurePolicy: "open",
  hook: "tcx",
  bpffs: "/b",
  kubeconfig: "/k",
  agent: { socket: "/s" },
  log: { level: "debug", file: "/l" },
  runtimeConfig: { "io.kubernetes.cri.pod-annotations": { a: "b" } },
  "cni.dev/valid-attachments": [{ containerID: "a", ifname: "eth0" }],
};
const oddities: unknown[] = [
  null,
  0,
  -1,
  1.5,
  1e308,
  "",
  "x",
  "/x",
  "\u0000",
  "\ud800",
  true,
  false,
  [],
  {},
  [[]],
  [null],
  [{}],
  { "": 0 },
  { constructor: 1 },
  "1.0.0",
  ["x"],
  { toString: 1 },
];

/** Exchanges, removes or adds something at a random depth. */
function mutate(value: unknown, random: (below: number) => number): unknown {
  if (typeof value !== "object" || value === null || random(5) === 0) return oddities[random(oddities.length)];
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>;
  const keys = Object.keys(copy);
  const key = keys[random(keys.length + 1)] ?? ["extra", "__proto__", "0", "then"][random(4)] ?? "";
  if (random(6) === 0) delete copy[key];
  else
    Object.defineProperty(copy, key, {
      value: mutate(copy[key], random),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  return copy;
}

const done = async (): Promise<void> => {};
const verbs: Verbs = { add: done, del: done, check: done, gc: done, status: done };

test("20,000 configurations gone wrong", async () => {
  for (let seed = 0; seed < 20_000; seed++) {
    const random = generator(seed);
    let configuration: unknown = whole;
    for (let times = random(3); times >= 0; times--) configuration = mutate(configuration, random);
    const text = JSON.stringify(configuration);
    // Now and then the text itself is broken.
    const stdin = random(20) === 0 ? text.slice(0, random(text.length)) : text;
    const verb = ["ADD", "DEL", "CHECK", "GC", "STATUS"][random(5)];
    const raw = {
      env: { ...goodEnvironment, CNI_COMMAND: verb },
      stdin: async () => stdin,
      isOwnNamespace: () => false,
    };
    const { stdout, exitCode } = await dispatch(raw, () => verbs);
    const note = `seed ${seed}: ${verb} ${stdin} -> ${stdout}`;
    if (exitCode === 0) {
      assert.is(stdout === "", verb !== "ADD", note);
      if (verb === "ADD") assert.equal(JSON.parse(stdout).cniVersion, JSON.parse(stdin).cniVersion, note);
    } else {
      const { code, msg } = JSON.parse(stdout);
      assert.ok([1, 2, 6, 7].includes(code), note);
      assert.ok(msg.length > 10 && !/undefined|\[object/.test(msg), note);
    }
  }
});

test.run();
