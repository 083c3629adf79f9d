// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { RemoraError } from "../errors.ts";
import { input, machine, type ProgramSketch, select } from "./fixture.ts";
import { type PlannedStage, plan } from "./plan.ts";

const kernel = machine();
const names = (stages: PlannedStage[]) => stages.map(({ entries: [entry] }) => entry.selected.program.name);
const many = (count: number, sketch: ProgramSketch = {}) =>
  Array.from({ length: count }, (_, index) => select(kernel, `p${index}`, sketch));

function refusal(act: () => unknown): RemoraError {
  try {
    act();
  } catch (error) {
    if (error instanceof RemoraError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("each direction has its programs, in the order given", () => {
  const made = plan(
    input(kernel, [
      select(kernel, "a"),
      select(kernel, "in", { directions: ["ingress"] }),
      select(kernel, "out", { directions: ["egress"] }),
      select(kernel, "z"),
    ]),
  );
  assert.equal(names(made.stages.ingress), ["a", "in", "z"]);
  assert.equal(names(made.stages.egress), ["a", "out", "z"]);
  assert.is(made.generation, 1);
  assert.is(made.hook, "tcx");
});

test("the same program twice, with different parameters, is two positions", () => {
  const one = select(kernel, "a", { select: { shown: { rate: 1 } } });
  const two = select(kernel, "a", { select: { shown: { rate: 2 } } });
  assert.equal(
    plan(input(kernel, [one, two])).stages.ingress.map(({ entries: [entry] }) => entry.selected.shown),
    [{ rate: 1 }, { rate: 2 }],
  );
});

test("32 programs stand in a direction, the 33rd is refused by number and name", () => {
  assert.is(plan(input(kernel, many(32))).stages.egress.length, 32);
  const { code, message } = refusal(() => plan(input(kernel, many(34))));
  assert.is(code, 109);
  assert.match(message, /ingress.*34.*32.*p32, p33/);
});

test("a limit of one direction does not concern the other", () => {
  const both = [...many(32, { directions: ["ingress"] }), ...many(32, { directions: ["egress"] })];
  assert.is(plan(input(kernel, both)).stages.ingress.length, 32);
});

test("tail calls inside programs count against the kernel's budget, and the sum is explained", () => {
  const greedy = (calls: number) =>
    select(kernel, "greedy", { programs: [{ name: "handle", tailCalls: calls }], directions: ["ingress"] });
  const others = many(3, { directions: ["ingress"] });
  assert.is(plan(input(kernel, [...others, greedy(30)])).stages.ingress.length, 4);
  const { code, message } = refusal(() => plan(input(kernel, [...others, greedy(31)])));
  assert.is(code, 109);
  assert.match(message, /34 tail calls.*allows 33.*3 between its 4 programs.*greedy 31/);
});

test("the head is counted first, and again behind a program that changes the packet's length", () => {
  const resizes = select(kernel, "resizes", { programs: [{ name: "handle", resizes: true }] });
  const made = plan(input(kernel, [select(kernel, "a"), resizes, select(kernel, "b"), select(kernel, "c")]));
  assert.equal(
    made.stages.ingress.map(({ countHead }) => countHead),
    [true, false, true, false],
  );
});

test("a function per direction shares its maps, the same function in both does not", () => {
  const pair = select(kernel, "pair", { entry: { ingress: "from", egress: "to" } });
  const single = select(kernel, "single");
  const onlyIn = select(kernel, "in", { directions: ["ingress"] });
  const made = plan(input(kernel, [onlyIn, pair, single]));
  assert.equal(
    made.stages.egress.map(({ sharesMapsWith }) => sharesMapsWith),
    [{ direction: "ingress", position: 1 }, undefined],
  );
  assert.ok(made.stages.ingress.every(({ sharesMapsWith }) => sharesMapsWith === undefined));
});

test("two entries of one program share nothing with each other", () => {
  const pair = () => select(kernel, "pair", { entry: { ingress: "from", egress: "to" } });
  const made = plan(input(kernel, [pair(), pair()]));
  assert.equal(
    made.stages.egress.map(({ sharesMapsWith }) => sharesMapsWith?.position),
    [0, 1],
  );
});

test("the program's failure policy goes before the node's", () => {
  const made = plan(
    input(kernel, [select(kernel, "a"), select(kernel, "b", { change: { failurePolicy: "closed" } })], {
      config: { bpffs: "/sys/fs/bpf/remora", failurePolicy: "open", hook: "tcx", programDirs: [] },
    }),
  );
  assert.equal(
    made.stages.ingress.map(({ failurePolicy }) => failurePolicy),
    ["open", "closed"],
  );
});

test("what is not supported yet is refused with the reason", () => {
  const clsact = { ...input(kernel, []).config, hook: "clsact" as const };
  for (const [made, words] of [
    [input(kernel, [], { config: clsact }), /clsact.*not supported yet/],
    [input(kernel, [select(kernel, "guard", { select: { at: "host" } })]), /guard: at: host is not supported yet/],
  ] as const) {
    const { code, message } = refusal(() => plan(made));
    assert.is(code, 113);
    assert.match(message, words);
  }
  const ingressOnly = select(kernel, "guard", { directions: ["ingress"], select: { at: "host" } });
  assert.is(plan(input(kernel, [ingressOnly])).stages.ingress.length, 1);
});

test("no program, no stage", () => {
  const made = plan(input(kernel, []));
  assert.equal(made.stages, { ingress: [], egress: [] });
});

test.run();
