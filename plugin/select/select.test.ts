// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import type { Selected } from "../model.ts";
import { catalogOf, config, pod, program } from "./fixture.ts";
import { type SelectInput, select } from "./select.ts";

const catalog = catalogOf(
  program("count"),
  program("limit", { params: { rate: "1Mbit" } }),
  program("egress-only", { entry: { egress: "f" } }),
  program("early", { priority: 10 }),
  program("late", { priority: 990 }),
  program("optional", { failurePolicy: "open" }),
  program("strict", { failurePolicy: "closed" }),
  program("private", { namespaces: ["bank"] }),
  program("wall", { at: "host" }),
  program("fault", { nodeWide: false }),
  program("flow_log"),
);

function choose(annotations: Record<string, string> | undefined, changes: Partial<SelectInput> = {}) {
  return select({ config, annotations, pod, catalog, ...changes });
}
const programs = (value: string) => ({ "remora.io/programs": value });
const names = (selected: Selected[]) => selected.map((one) => one.program.name);
const hexOf = (one: Selected | undefined) =>
  Object.fromEntries(one?.parameters.map(({ name, bytes }) => [name, bytes.toString("hex")]) ?? []);

function refused(act: () => unknown, expected: ErrorCode, ...parts: string[]): void {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError, String(error));
    assert.is((error as RemoraError).code, expected, String(error));
    const { message } = error as RemoraError;
    assert.not(message.includes("\n"), "one line");
    assert.ok(message.length < 500, `short: ${message}`);
    for (const part of parts) assert.ok(message.includes(part), `${message}\nlacks: ${part}`);
    return;
  }
  throw new Error("was not refused");
}

test("no annotations, and annotations of others, select nothing", () => {
  const others = {
    "kubectl.kubernetes.io/last-applied-configuration": '{"remora.io/programs":"x"}\n;=',
    "example.com/programs": "count",
    "notremora.io/programs": "count",
    plain: "",
    "": "",
  };
  for (const annotations of [undefined, {}, others, programs(""), programs(" , "), programs("[]")]) {
    assert.equal(choose(annotations), { selected: [], missing: [] });
  }
});

test("a list of names, with blanks and line breaks", () => {
  assert.equal(names(choose(programs("count, limit,\n  flow_log,\n")).selected), ["count", "limit", "flow_log"]);
});

test("JSON entries with priority, parameters and directions", () => {
  const value = JSON.stringify([
    { program: "limit", priority: 700, params: { rate: "10Mbit", burst: 5 }, directions: ["egress"] },
    { program: "count" },
  ]);
  const [count, limit] = choose(programs(value)).selected;
  assert.is(count?.program.name, "count");
  assert.equal(count?.directions, ["ingress", "egress"]);
  assert.is(limit?.priority, 700);
  assert.equal(limit?.directions, ["egress"]);
  assert.equal(hexOf(limit), { rate: "8096980000000000", burst: "0500000000000000" });
  assert.equal(limit?.shown, { rate: "10Mbit", burst: 5 });
  assert.is(limit?.nodeWide, false);
});

test("parameters: manifest, over it the entry, over it the annotation", () => {
  const rateOf = (annotations: Record<string, string>) => choose(annotations).selected[0]?.shown;
  const entry = programs('[{"program":"limit","params":{"rate":"2Mbit"}}]');
  assert.equal(rateOf(programs("limit")), { rate: "1Mbit" });
  assert.equal(rateOf(entry), { rate: "2Mbit" });
  assert.equal(rateOf({ ...entry, "limit.remora.io/rate": "3Mbit" }), { rate: "3Mbit" });
  assert.equal(choose(programs("count")).selected[0]?.parameters, []);
});

test("order: priority, then the node's before the pod's, then as listed", () => {
  const chain = [{ program: "late" }, { program: "strict" }, { program: "count", priority: 0 }, { program: "wall" }];
  const { selected } = choose(
    programs('[{"program":"flow_log"},{"program":"early"},{"program":"limit","priority":0}]'),
    {
      config: { ...config, chain },
    },
  );
  assert.equal(names(selected), ["count", "limit", "early", "strict", "wall", "flow_log", "late"]);
});

test("the node's chain: place, directions, parameters, and no question of policy", () => {
  const chain = [
    { program: "private", at: "host" as const, directions: ["egress" as const], params: { burst: "0x10" } },
  ];
  const { selected } = choose(undefined, { config: { ...config, chain, allow: {} } });
  assert.is(selected[0]?.at, "host");
  assert.equal(selected[0]?.directions, ["egress"]);
  assert.equal(selected[0]?.shown, { burst: 16 });
  assert.is(selected[0]?.nodeWide, true);
});

test("the manifest's place and the program's directions hold where nobody says otherwise", () => {
  const [wall] = choose(programs("wall")).selected;
  assert.is(wall?.at, "host");
  assert.equal(choose(programs("egress-only")).selected[0]?.directions, ["egress"]);
});

test("where a program stands: the administrator says it, of a pod's words nothing is taken", () => {
  const asked = programs('[{"program":"count","at":"host"},{"program":"wall","at":"pod"}]');
  const { selected } = choose(asked, { trusted: true });
  assert.equal(
    selected.map(({ program, at, nodeWide }) => [program.name, at, nodeWide]),
    [
      ["count", "host", false],
      ["wall", "pod", false],
    ],
  );
  for (const [entry, words] of [
    ['{"program":"count","at":"node"}', '[0].at must be "pod" or "host"'],
    ['{"program":"count","att":"host"}', "there are program, priority, params, directions, at"],
  ] as const)
    refused(() => choose(programs(`[${entry}]`), { trusted: true }), code.badAnnotation, words);
});

test("a program may stand in the chain twice with different parameters", () => {
  const { selected } = choose(
    programs('[{"program":"limit","params":{"rate":"1Mbit"}},{"program":"limit","params":{"rate":"2Mbit"}}]'),
  );
  assert.equal(
    selected.map(({ shown }) => shown.rate),
    ["1Mbit", "2Mbit"],
  );
});

const refusals: [what: string, annotations: Record<string, string>, code: ErrorCode, ...parts: string[]][] = [
  ["an unknown program", programs("cuont"), code.unknownProgram, "annotation remora.io/programs", 'no program "cuont"'],
  ["a path", programs("../count"), code.badAnnotation, '"../count" is not a program\'s name'],
  ["names without commas", programs("count limit"), code.badAnnotation, "separated by commas"],
  ["JSON that ends early", programs('[{"program":'), code.badAnnotation, "nor valid JSON"],
  ["JSON that is an object", programs('{"program":"count"}'), code.badAnnotation, "must be a JSON list"],
  ["an entry that is a number", programs("[1]"), code.badAnnotation, "[0] must be an object"],
  [
    "an unknown field",
    programs('[{"program":"count","prio":5}]'),
    code.badAnnotation,
    '[0] has an unknown field "prio": there are program, priority',
  ],
  ["a slip in a field", programs('[{"program":"count","parms":{}}]'), code.badAnnotation, 'did you mean "params"?'],
  ["at", programs('[{"program":"count","at":"host"}]'), code.badAnnotation, "[0].at is not for a pod to say"],
  ["no program", programs('[{"priority":5}]'), code.badAnnotation, "[0].program must be a program's name"],
  [
    "a priority out of range",
    programs('[{"program":"count","priority":1001}]'),
    code.badAnnotation,
    "[0].priority must be a whole number from 0 to 1000",
  ],
  ["a priority as text", programs('[{"program":"count","priority":"5"}]'), code.badAnnotation, "whole number"],
  [
    "an unknown direction",
    programs('[{"program":"count","directions":["in"]}]'),
    code.badAnnotation,
    '[0].directions[0] must be "ingress" or "egress"',
  ],
  [
    "a direction twice",
    programs('[{"program":"count","directions":["egress","egress"]}]'),
    code.badAnnotation,
    "each once",
  ],
  ["no direction", programs('[{"program":"count","directions":[]}]'), code.badAnnotation, "each once"],
  [
    "a direction the program lacks",
    programs('[{"program":"egress-only","directions":["ingress"]}]'),
    code.badAnnotation,
    'program "egress-only" has nothing for ingress, only for egress',
  ],
  [
    "a parameter that is a list",
    programs('[{"program":"count","params":{"rate":[1]}}]'),
    code.badAnnotation,
    "[0].params.rate must be text",
  ],
  [
    "an unknown parameter in JSON",
    programs('[{"program":"count","params":{"raet":1}}]'),
    code.badParameter,
    "program count, parameter raet",
    'did you mean "rate"?',
  ],
  [
    "a bad value in JSON",
    programs('[{"program":"count","params":{"burst":-1}}]'),
    code.badParameter,
    "parameter burst",
    '"-1" is out of range',
  ],
  [
    "a bad value",
    { ...programs("count"), "count.remora.io/rate": "10Mbitt" },
    code.badParameter,
    'annotation count.remora.io/rate: "10Mbitt" is not a bit rate such as 10Mbit',
  ],
  [
    "a value out of range",
    { ...programs("count"), "count.remora.io/rate": "1kbit" },
    code.badParameter,
    '"1kbit" is out of range, 8kbit or more is possible',
  ],
  [
    "an unknown parameter",
    { ...programs("count"), "count.remora.io/raet": "1" },
    code.badParameter,
    "annotation count.remora.io/raet",
    'no parameter "raet", did you mean "rate"?',
    'the value is "1"',
  ],
  [
    "a parameter named like an object's method",
    { ...programs("count"), "count.remora.io/constructor": "1" },
    code.badParameter,
    "annotation count.remora.io/constructor",
    "no parameter",
  ],
  [
    "a parameter of a program not selected",
    { ...programs("count"), "limit.remora.io/rate": "1Mbit" },
    code.badAnnotation,
    "annotation limit.remora.io/rate",
    'program "limit" is not selected by remora.io/programs',
  ],
  ["a parameter without any program", { "cuont.remora.io/rate": "1Mbit" }, code.badAnnotation, "not selected"],
  [
    "a slip in a parameter's program",
    { ...programs("count"), "cuont.remora.io/rate": "1Mbit" },
    code.badAnnotation,
    'did you mean "count"?',
  ],
  [
    "a parameter of a program listed twice",
    { ...programs("limit,limit"), "limit.remora.io/rate": "1Mbit" },
    code.badAnnotation,
    "2 times",
    '"params"',
  ],
  [
    "a parameter of a program with an underscore",
    { ...programs("flow_log"), "flow-log.remora.io/rate": "1Mbit" },
    code.badAnnotation,
    "no underscore here",
    'of "flow_log" go into the JSON form',
  ],
  [
    "a slip in the key",
    { "remora.io/progams": "count" },
    code.badAnnotation,
    "annotation remora.io/progams is not known",
    'did you mean "remora.io/programs"?',
  ],
  ["an unknown key of ours", { "remora.io/colour": "red" }, code.badAnnotation, "is not known", '"red"'],
  ["a key in upper case", { "Remora.io/programs": "count" }, code.badAnnotation, 'did you mean "remora.io/programs"?'],
  ["a key without a name", { "remora.io": "count" }, code.badAnnotation, "is not known"],
  [
    "a program kept for others",
    programs("private"),
    code.programNotAllowed,
    'namespace "shop" may not use program "private": its manifest keeps it for bank',
  ],
  ["an absurd list", programs("count,".repeat(200_000)), code.chainTooLong, "lists 200000 programs"],
  ["a very long value", programs(`${"x".repeat(100_000)}!`), code.badAnnotation, "is not a program's name"],
];
for (const [what, annotations, expected, ...parts] of refusals) {
  test(`refused: ${what}`, () => {
    refused(() => choose(annotations), expected, "pod shop/web: ", ...parts);
  });
  test(`under the policy "open", missing: ${what}`, () => {
    const chain = [{ program: "strict" }];
    const { selected, missing } = choose(annotations, { config: { ...config, chain, failurePolicy: "open" } });
    assert.is(names(selected)[0], "strict");
    assert.ok(missing.length > 0);
    for (const part of ["pod shop/web: ", ...parts]) {
      assert.ok(
        missing.some(({ reason }) => reason.includes(part)),
        `${JSON.stringify(missing)}\nlacks: ${part}`,
      );
    }
  });
}

test("a namespace that may not use a program", () => {
  const restricted = { ...config, allow: { "*": ["*"], shop: ["count", "limit"] } };
  assert.equal(names(choose(programs("limit"), { config: restricted }).selected), ["limit"]);
  refused(
    () => choose(programs("early"), { config: restricted }),
    code.programNotAllowed,
    'pod shop/web: annotation remora.io/programs: namespace "shop" may not use program "early": it may use count, limit',
  );
  assert.equal(names(choose(programs("early"), { config: restricted, pod: null }).selected), ["early"]);
});

test("without a pod's identity errors begin with the annotation", () => {
  refused(
    () => choose(programs("cuont"), { pod: null }),
    code.unknownProgram,
    "annotation remora.io/programs: this node",
  );
});

test("a fault in the node's chain names the entry, not the pod", () => {
  const act = (chain: SelectInput["config"]["chain"]) => () => choose(undefined, { config: { ...config, chain } });
  refused(
    act([{ program: "count" }, { program: "cuont" }]),
    code.unknownProgram,
    "chain[1] of the node's configuration: this node has no",
  );
  refused(
    act([{ program: "egress-only", directions: ["ingress"] }]),
    code.invalidConfig,
    "chain[0] of the node's configuration: program",
  );
  refused(
    act([{ program: "count", params: { rate: 1 } }]),
    code.badParameter,
    "chain[0]",
    "program count, parameter rate",
    '"1" is out of range',
  );
});

test("a pod cannot set the parameters of the node's entries", () => {
  const chain = [{ program: "limit" }];
  refused(
    () => choose({ "limit.remora.io/rate": "100Mbit" }, { config: { ...config, chain } }),
    code.badAnnotation,
    "is not selected by remora.io/programs",
  );
  const { selected } = choose(
    { ...programs("limit"), "limit.remora.io/rate": "100Mbit" },
    { config: { ...config, chain } },
  );
  assert.equal(
    selected.map(({ shown, nodeWide }) => [shown.rate, nodeWide]),
    [
      ["1Mbit", true],
      ["100Mbit", false],
    ],
  );
});

test("a manifest's failure policy counts more than the node's, once the program is known", () => {
  const bad = (name: string) => programs(`[{"program":"${name}","params":{"rate":"x"}}]`);
  assert.equal(
    choose(bad("optional")).missing.map((one) => one.program),
    ["optional"],
  );
  const open = { config: { ...config, failurePolicy: "open" as const } };
  refused(() => choose(bad("strict"), open), code.badParameter);
  assert.equal(
    choose(bad("count"), open).missing.map((one) => one.program),
    ["count"],
  );
});

test("under the policy open one bad entry of a list leaves the others", () => {
  const { selected, missing } = choose(
    programs('[{"program":"count"},{"program":"limit","prio":1},{"program":"flow_log"}]'),
    {
      config: { ...config, failurePolicy: "open" },
    },
  );
  assert.equal(names(selected), ["count", "flow_log"]);
  assert.equal(
    missing.map((one) => one.program),
    ["limit"],
  );
});

test("an error that is none of ours is not swallowed", () => {
  const broken = {
    get: () => {
      throw new TypeError("a mistake");
    },
  };
  const open = { ...config, failurePolicy: "open" as const };
  assert.throws(
    () => choose(programs("count"), { catalog: broken, config: open }),
    (error: unknown) => error instanceof TypeError,
  );
});

test("what is missing says whether the node asked for it", () => {
  const { missing } = choose(programs("y"), {
    config: { ...config, chain: [{ program: "x" }], failurePolicy: "open" },
  });
  assert.equal(
    missing.map(({ program: name, nodeWide }) => [name, nodeWide]),
    [
      ["x", true],
      ["y", undefined],
    ],
  );
});

test("a program that is not meant for every pod: refused to the node's chain, had by annotation", () => {
  const chain = [{ program: "count" }, { program: "fault", params: { rate: "1Mbit" } }];
  refused(
    () => choose(undefined, { config: { ...config, chain } }),
    code.programNotAllowed,
    'chain[1] of the node\'s configuration: program "fault" may not be on every pod',
    'its manifest says "nodeWide: false"',
    'say "nodeWide: true" in /programs/fault.yaml',
  );
  const open = choose(programs("count"), { config: { ...config, chain, failurePolicy: "open" } });
  assert.equal(names(open.selected), ["count", "count"]);
  assert.equal(
    open.missing.map(({ program, nodeWide }) => [program, nodeWide]),
    [["fault", true]],
  );
  assert.equal(names(choose(programs("fault")).selected), ["fault"]);
});

test("thousands of annotations are read in one pass, and of thousands of refusals the first are told", () => {
  const many = <T>(make: (index: number) => T): T[] => Array.from({ length: 40_000 }, (_, index) => make(index));
  const parameters = Object.fromEntries(many((index) => [`limit.remora.io/p${index}`, "1"]));
  const others = Object.fromEntries(many((index) => [`c${index}.remora.io/rate`, "1"]));
  const entry = JSON.stringify([{ program: "limit", params: Object.fromEntries(many((index) => [`q${index}`, "1"])) }]);
  // With a copy of all before for each, this takes ten minutes instead of a tenth of a second.
  refused(() => choose({ ...parameters, ...programs(entry) }), code.badParameter, "limit");
  refused(() => choose({ ...others, ...programs("limit") }), code.badAnnotation, "c0.remora.io/rate");
  const open = { config: { ...config, failurePolicy: "open" as const } };
  const { selected, missing } = choose({ ...others, ...programs("limit") }, open);
  assert.equal(names(selected), ["limit"]);
  assert.is(missing.length, 33);
  assert.match(missing.at(-1)?.reason ?? "", /39968 more annotations of remora\.io are refused/);
});

test("what is no program's name is told what one is", () => {
  for (const name of ["Count", "../etc/passwd", "c\u00f6unt", "count.", "-count"]) {
    refused(() => choose(programs(name)), code.badAnnotation, "remora.io/programs", "lower-case letters and digits");
    const entry = JSON.stringify([{ program: name }]);
    refused(() => choose(programs(entry)), code.badAnnotation, "[0].program", "lower-case letters and digits");
  }
  for (const list of ["count;limit", "count limit"])
    refused(() => choose(programs(list)), code.badAnnotation, "names are separated by commas");
});

test("a parameter called __proto__ is refused as any other that there is not", () => {
  const annotations = { ...programs("limit"), "limit.remora.io/__proto__": "1" };
  refused(() => choose(annotations), code.badParameter, 'there is no parameter "__proto__"');
  const entry = '[{"program":"limit","params":{"__proto__":{"rate":"1Mbit"}}}]';
  refused(() => choose(programs(entry)), code.badAnnotation, '"__proto__" cannot be one of its names');
});

test.run();
