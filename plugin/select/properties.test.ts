// SPDX-License-Identifier: Apache-2.0
/** What holds for every input: random annotations, chains and policies, from a fixed seed so that a failure repeats. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { RemoraError } from "../errors.ts";
import type { NodeConfig, Selected } from "../model.ts";
import { catalogOf, config, pod, program } from "./fixture.ts";
import { type SelectInput, select } from "./select.ts";

/** mulberry32 */
function random(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (most: number) => Math.floor(next() * most);
  const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T;
  const some = <T>(most: number, make: () => T): T[] => Array.from({ length: below(most + 1) }, make);
  return { below, pick, some };
}

const catalog = catalogOf(
  program("a"),
  program("b", { priority: 0 }),
  program("c", { priority: 1000, entry: { egress: "f" } }),
  program("d", { failurePolicy: "open", namespaces: ["bank"] }),
  program("e_f", { params: { burst: 3 } }),
);
const pieces = [
  "a",
  "b",
  "c",
  "d",
  "e_f",
  "x",
  ",",
  " ",
  "[",
  "]",
  "{",
  "}",
  ":",
  '"program"',
  '"a"',
  '"params"',
  "1",
  "\n",
  "\0",
  "__proto__",
  "é",
  "%",
  "/",
];
const keys = [
  "remora.io/programs",
  "remora.io/program",
  "remora.io",
  "a.remora.io/rate",
  "b.remora.io/burst",
  "x.remora.io/",
  "a.remora.io",
  ".remora.io/rate",
  "__proto__",
  "constructor.remora.io/constructor",
  "kubernetes.io/x",
];
const values = ["10Mbit", "1kbit", "0x10", "-1", "", "true", "18446744073709551616", "\n;="];

function randomEntry({ pick, below }: ReturnType<typeof random>): Record<string, unknown> {
  const entry: Record<string, unknown> = { program: pick(["a", "b", "c", "d", "e_f", "x"]) };
  if (below(2)) entry.priority = pick([0, 1, 500, 500, 999, 1000]);
  if (below(4) === 0) entry.params = { [pick(["rate", "burst", "raet"])]: pick([...values, 1, true]) };
  if (below(5) === 0) entry.directions = pick([["ingress"], ["egress"], ["egress", "ingress"]]);
  if (below(20) === 0) entry[pick(["at", "prio"])] = "host";
  return entry;
}

function randomInput(seed: number): SelectInput {
  const source = random(seed);
  const { pick, some, below } = source;
  const annotations = Object.fromEntries(
    some(3, () => [pick(keys), pick([pick(values), some(6, () => pick(pieces)).join("")])]),
  );
  if (below(3)) annotations["remora.io/programs"] = JSON.stringify(some(6, () => randomEntry(source)));
  const chain = some(5, () => ({
    ...randomEntry(source),
    at: pick(["pod", "host"]),
  })) as unknown as NodeConfig["chain"];
  return {
    config: {
      ...config,
      chain,
      failurePolicy: pick(["open", "open", "closed"]),
      allow: pick([{ "*": ["*"] }, { "sh*": ["a", "b"] }, {}]),
    },
    annotations,
    pod: pick([pod, { ...pod, namespace: "bank" }, null]),
    catalog,
  };
}

/** The outcome as plain values; only RemoraError may be thrown. */
function outcome(input: SelectInput) {
  try {
    return select(input);
  } catch (error) {
    assert.instance(error, RemoraError, `${JSON.stringify(input)}: ${error instanceof Error ? error.stack : error}`);
    assert.not((error as RemoraError).message.includes("\n"), (error as RemoraError).message);
    return (error as RemoraError).message;
  }
}
const key = ({ program: { name }, priority, nodeWide, directions, shown }: Selected) =>
  JSON.stringify([name, priority, nodeWide, directions, shown]);

const rounds = 3_000;

test("nothing but a RemoraError is thrown, and the same input has the same outcome", () => {
  let selections = 0;
  for (let seed = 0; seed < rounds; seed += 1) {
    const once = outcome(randomInput(seed));
    assert.equal(outcome(randomInput(seed)), once);
    if (typeof once !== "string") selections += 1;
  }
  assert.ok(selections > rounds / 4, "enough of them select something");
});

test("the order is total: by priority, then the node's first", () => {
  for (let seed = 0; seed < rounds; seed += 1) {
    const result = outcome(randomInput(seed));
    if (typeof result === "string") continue;
    for (const [index, after] of result.selected.entries()) {
      const before = result.selected[index - 1];
      if (before === undefined) continue;
      assert.ok(before.priority <= after.priority);
      if (before.priority === after.priority) assert.ok(before.nodeWide || !after.nodeWide);
      assert.ok(after.directions.length > 0);
    }
  }
});

test("a pod neither removes, changes nor reorders what the node put into the chain", () => {
  for (let seed = 0; seed < rounds; seed += 1) {
    const input = randomInput(seed);
    const alone = outcome({ ...input, annotations: undefined });
    const together = outcome(input);
    if (typeof together === "string" || typeof alone === "string") continue;
    assert.equal(together.selected.filter((one) => one.nodeWide).map(key), alone.selected.map(key));
  }
});

test("under the policy open every wish is either selected or missing", () => {
  for (let seed = 0; seed < rounds; seed += 1) {
    const input = randomInput(seed);
    const open = { ...input, annotations: undefined, config: { ...input.config, failurePolicy: "open" as const } };
    const result = outcome(open);
    assert.is.not(typeof result, "string");
    if (typeof result !== "string") assert.is(result.selected.length + result.missing.length, open.config.chain.length);
  }
});

test("equals stay in the order in which they are listed", () => {
  const listed = Array.from({ length: 30 }, (_, index) => ({
    program: "a",
    params: { burst: index },
    priority: index % 3,
  }));
  const { selected } = select({ config, annotations: { "remora.io/programs": JSON.stringify(listed) }, pod, catalog });
  const expected = [...listed.keys()].sort((x, y) => (x % 3) - (y % 3) || x - y);
  assert.equal(
    selected.map(({ shown }) => shown.burst),
    expected,
  );
});

test.run();
