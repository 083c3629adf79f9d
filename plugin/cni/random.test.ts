// SPDX-License-Identifier: Apache-2.0
/** Whatever a configuration or an environment holds, the answer is one of the two that CNI knows, and never Remora's own confusion. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { garble, generator, pick } from "../../e2e/lib/random.ts";
import { dispatch, type Verbs } from "./dispatch.ts";
import { goodConfiguration, goodEnvironment } from "./refusals.table.ts";

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

const goodArguments =
  "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=5d1;K8S_POD_INFRA_CONTAINER_ID=c0ffee";
const environmentPieces = [
  "",
  "/",
  "..",
  "\n",
  "\u0001",
  ";",
  "=",
  ";;",
  "K8S_POD_NAME=",
  "IgnoreUnknown=0",
  "eth0",
  "é",
  " ",
  "%",
];

test("20,000 environments gone wrong", async () => {
  let accepted = 0;
  for (let seed = 0; seed < 20_000; seed++) {
    const random = generator(seed);
    const env: Record<string, string | undefined> = {
      ...goodEnvironment,
      CNI_COMMAND: pick(random, ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]),
      CNI_ARGS: goodArguments,
    };
    for (let times = random(2); times >= 0; times--) {
      const name = pick(random, [...Object.keys(env), "CNI_NETNS_OVERRIDE"]);
      env[name] = random(5) === 0 ? undefined : garble(random, env[name] ?? "", environmentPieces);
    }
    let seen: { containerId: string; ifname: string; pod?: { name: string } | null } | undefined;
    const keep = async (request: object): Promise<void> => {
      if ("containerId" in request) seen = request as typeof seen;
    };
    const raw = { env, stdin: async () => JSON.stringify(goodConfiguration), isOwnNamespace: () => false };
    const { stdout, exitCode } = await dispatch(raw, () => ({
      add: keep,
      del: keep,
      check: keep,
      gc: keep,
      status: keep,
    }));
    const note = `seed ${seed}: ${JSON.stringify(env)} -> ${stdout}`;
    if (exitCode === 0) {
      accepted++;
      // What reaches a verb is what names of files and interfaces are made of.
      if (seen) assert.match(seen.containerId, /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/, note);
      if (seen) assert.ok(Buffer.byteLength(seen.ifname) <= 15 && !/[/:\s]/.test(seen.ifname), note);
    } else {
      const { code, msg } = JSON.parse(stdout);
      assert.ok([4, 7].includes(code), note);
      assert.ok(msg.length > 10 && !/undefined|\[object/.test(msg), note);
    }
  }
  assert.ok(accepted > 2_000 && accepted < 18_000, `${accepted} were accepted`);
});

test.run();
