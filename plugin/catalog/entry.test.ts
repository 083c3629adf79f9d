// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import type { ObjectInfo } from "../kernel/port.ts";
import { checkEntry, findEntry } from "./entry.ts";

type Sketch = [name: string, section: string, type?: string, inner?: boolean];

function object(...programs: Sketch[]): ObjectInfo {
  return {
    programs: programs.map(([name, section, type = "sched_cls", inner = false]) => ({
      name,
      section,
      type,
      inner,
      tailCalls: 0,
      resizes: false,
    })),
    maps: [],
    parameters: [],
    license: "GPL",
    sha256: "0".repeat(64),
    btf: true,
  };
}

const found: [what: string, programs: Sketch[], ingress: string | undefined, egress: string | undefined][] = [
  ["one program in tc serves both", [["count", "tc"]], "count", "count"],
  ["one in classifier serves both", [["f", "classifier"]], "f", "f"],
  ["one in classifier/foo serves both", [["f", "classifier/foo"]], "f", "f"],
  ["one in netkit/primary serves both", [["f", "netkit/primary"]], "f", "f"],
  [
    "tc/ingress and tc/egress",
    [
      ["a", "tc/ingress"],
      ["b", "tc/egress"],
    ],
    "a",
    "b",
  ],
  ["tcx/egress alone offers egress", [["b", "tcx/egress"]], undefined, "b"],
  [
    "dashes",
    [
      ["a", "tc-ingress"],
      ["b", "tc-egress"],
    ],
    "a",
    "b",
  ],
  ["underscores", [["a", "tc_egress_flow_monitoring"]], undefined, "a"],
  [
    "ingress/...",
    [
      ["a", "ingress/main"],
      ["b", "classifier/egress"],
    ],
    "a",
    "b",
  ],
  ["upper case", [["a", "TC_INGRESS"]], "a", undefined],
  [
    "function names, where sections are silent",
    [
      ["handleIngress", "tc"],
      ["handle_egress", "tc"],
    ],
    "handleIngress",
    "handle_egress",
  ],
  ["the section counts more than the function", [["egress_like", "tc/ingress"]], "egress_like", undefined],
  ["both words say nothing", [["f", "tc/ingress_egress"]], "f", "f"],
  [
    "a kprobe beside it is ignored",
    [
      ["k", "kprobe/tcp_connect", "kprobe"],
      ["f", "tc"],
    ],
    "f",
    "f",
  ],
  [
    "an xdp program beside it is ignored",
    [
      ["x", "xdp/ingress", "xdp"],
      ["f", "tc/ingress"],
    ],
    "f",
    undefined,
  ],
  [
    "inner programs are no entries",
    [
      ["f", "tc"],
      ["next_ingress", "tc", "sched_cls", true],
    ],
    "f",
    "f",
  ],
];
for (const [what, programs, ingress, egress] of found) {
  test(what, () => {
    const entry = findEntry("/p/x.bpf.o", object(...programs));
    assert.is(entry.ingress, ingress);
    assert.is(entry.egress, egress);
    assert.is(Object.values(entry).includes(undefined as never), false);
  });
}

function refusal(act: () => unknown): RemoraError {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError);
    return error as RemoraError;
  }
  throw new Error("was not refused");
}

const refused: [what: string, programs: Sketch[], ...parts: string[]][] = [
  [
    "two without a direction",
    [
      ["a", "tc"],
      ["b", "classifier"],
    ],
    "a (section tc), b (section classifier)",
    "/p/x.yaml",
    "entry: {ingress: <function>",
  ],
  [
    "two for ingress",
    [
      ["a", "tc/ingress"],
      ["b", "tcx/ingress"],
    ],
    "not clear",
    "b (section tcx/ingress)",
  ],
  [
    "one with and one without a direction",
    [
      ["a", "tc/ingress"],
      ["b", "tc"],
    ],
    "not clear",
  ],
  ["xdp alone", [["x", "xdp", "xdp"]], "no TC program, only x (xdp, section xdp)", "XDP does not work inside a pod"],
  ["a kprobe alone", [["k", "kprobe/x", "kprobe"]], "only k (kprobe, section kprobe/x)"],
  ["nothing", [], "holds no program"],
  ["inner programs alone", [["i", "tc", "sched_cls", true]], "none that starts"],
];
for (const [what, programs, ...parts] of refused) {
  test(`refused: ${what}`, () => {
    const error = refusal(() => findEntry("/p/x.bpf.o", object(...programs)));
    assert.is(error.code, code.badObject);
    for (const part of ["/p/x.bpf.o", ...parts])
      assert.ok(error.message.includes(part), `${error.message}\nlacks: ${part}`);
  });
}

test("a manifest decides what is ambiguous, and may offer one direction only", () => {
  const info = object(["a", "tc"], ["b", "tc"], ["k", "kprobe", "kprobe"]);
  assert.equal(checkEntry("/p/x.yaml", info, { ingress: "a", egress: "b" }), { ingress: "a", egress: "b" });
  assert.equal(checkEntry("/p/x.yaml", info, { ingress: undefined, egress: "b" }), { egress: "b" });
});

test("a manifest that names what is not there, or no TC program, is refused", () => {
  const info = object(["a", "tc"], ["k", "kprobe", "kprobe"]);
  const missing = refusal(() => checkEntry("/p/x.yaml", info, { ingress: "c" }));
  assert.is(missing.code, code.badManifest);
  assert.match(missing.message, /entry\.ingress names c, which the object does not hold \(its TC programs: a\)/);
  assert.match(refusal(() => checkEntry("/p/x.yaml", info, { egress: "k" })).message, /no TC program but kprobe/);
});

test.run();
