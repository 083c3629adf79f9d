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
    [{ place: "ingress", position: 1 }, undefined],
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

test("the hook: what auto has come to, else what the configuration says", () => {
  const config = (hook: "auto" | "tcx" | "clsact") => ({ ...input(kernel, []).config, hook });
  assert.is(plan(input(kernel, [], { config: config("clsact") })).hook, "clsact");
  assert.is(plan(input(kernel, [], { config: config("auto"), hook: "clsact" })).hook, "clsact");
  assert.is(plan(input(kernel, [], { config: config("auto"), hook: "tcx" })).hook, "tcx");
  assert.is(plan(input(kernel, [], { config: config("tcx") })).hook, "tcx");
});

const atHost = (name: string, sketch: ProgramSketch = {}) =>
  select(kernel, name, { ...sketch, select: { at: "host", ...sketch.select } });

test("at: host is the egress side's place, in the order given; the ingress side stays in the pod", () => {
  const chain = [select(kernel, "a"), atHost("guard"), select(kernel, "z"), atHost("wall", { directions: ["egress"] })];
  const made = plan(input(kernel, chain));
  assert.equal(names(made.stages.ingress), ["a", "guard", "z"]);
  assert.equal(names(made.stages.egress), ["a", "z"]);
  assert.equal(names(made.stages.host), ["guard", "wall"]);
  assert.equal(
    made.stages.host.map(({ countHead }) => countHead),
    [true, false],
  );
  assert.is(made.host?.ifname, "host-eth0");
});

test("at: host is never moved into the pod: without a host's end it is refused, and one that is not needed is not looked for", () => {
  const { code, message } = refusal(() => plan(input(kernel, [atHost("guard")], { host: undefined })));
  assert.is(code, 113);
  assert.match(message, /^guard: at: host, and there is no host's end/);
  const ingressOnly = input(kernel, [atHost("guard", { directions: ["ingress"] })]);
  assert.is(ingressOnly.host, undefined);
  assert.is(plan(ingressOnly).stages.ingress.length, 1);
});

test("a macvlan has no host's end: refused by the device's kind", () => {
  const other = machine();
  other.withoutPeers = "macvlan";
  const { code, message } = refusal(() => input(other, [select(other, "wall", { select: { at: "host" } })]));
  assert.is(code, 113);
  assert.match(message, /^wall: .*eth0 is a macvlan device/);
});

test("room and tail calls are the host chain's own", () => {
  const both = [
    ...many(32),
    ...Array.from({ length: 32 }, (_, index) => atHost(`h${index}`, { directions: ["egress"] })),
  ];
  assert.is(plan(input(kernel, both)).stages.host.length, 32);
  const { message } = refusal(() => plan(input(kernel, [...both, atHost("last", { directions: ["egress"] })])));
  assert.match(message, /^the host's chain would hold 33 programs.*last/);
});

test("a function per direction shares its maps across the places as well", () => {
  const pair = atHost("pair", { entry: { ingress: "from", egress: "to" } });
  const made = plan(input(kernel, [select(kernel, "a"), pair, atHost("single")]));
  assert.equal(
    made.stages.host.map(({ sharesMapsWith }) => sharesMapsWith),
    [{ place: "ingress", position: 1 }, undefined],
  );
});

test("no program, no stage", () => {
  const made = plan(input(kernel, []));
  assert.equal(made.stages, { ingress: [], egress: [], host: [] });
});

test.run();
