// SPDX-License-Identifier: Apache-2.0
/** Real files in a temporary directory (as root), objects as a fake kernel sees them. */
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import { KernelError, type ObjectInfo } from "../kernel/port.ts";
import { isProgramName, openCatalog } from "./catalog.ts";

/** Objects are one line of text here: the section of each program. */
const mapTagsOf: Record<string, string[]> = {
  deny_list: ["remora:scope=node", "remora:when=rate"],
  ended: ["remora:told=ending"],
};
const kernel = {
  inspected: 0,
  inspectObject(object: Buffer): ObjectInfo {
    kernel.inspected += 1;
    const text = object.toString();
    if (text === "garbage") throw new KernelError("inspectObject", "EREFUSED", "it is not an ELF file", "libbpf: no");
    return {
      programs: text.split(" ").map((section, index) => ({
        name: `f${index}`,
        section,
        type: section === "xdp" ? "xdp" : "sched_cls",
        tailCalls: 0,
        inner: false,
        resizes: false,
      })),
      maps: ["flows", "deny_list", "ended", ".rodata"].map((name) => ({
        name,
        type: name === "ended" ? "percpu_array" : "hash",
        keySize: 4,
        valueSize: name === "ended" ? 24 : 4,
        maxEntries: 1,
        flags: 0,
        pinned: false,
        internal: name.startsWith("."),
        tags: mapTagsOf[name] ?? [],
        layout: "",
      })),
      parameters: [
        {
          name: "rate",
          type: { kind: "int", name: "unsigned int", size: 4, signed: false, encoding: "int" },
          initial: Buffer.alloc(4),
          tags: ["remora:unit=bitrate"],
        },
      ],
      license: "GPL",
      sha256: createHash("sha256").update(object).digest("hex"),
      btf: true,
    };
  },
};

/** Program directories `a` and `b` with files in them; gone afterwards. */
function place(files: Record<string, string>) {
  const base = mkdtempSync(join(tmpdir(), `remora-catalog-${process.pid}-`));
  for (const name of ["a", "b"]) mkdirSync(join(base, name), { mode: 0o755 });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(base, name), text, { mode: 0o644 });
  const dirs = [join(base, "a"), join(base, "b")];
  return {
    base,
    dirs,
    open: () => openCatalog(dirs, kernel),
    [Symbol.dispose]: () => rmSync(base, { recursive: true }),
  };
}

function refused(act: () => unknown, expected: ErrorCode, ...parts: string[]): void {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError, String(error));
    assert.is((error as RemoraError).code, expected, String(error));
    for (const part of parts) assert.ok(String(error).includes(part), `${error}\nlacks: ${part}`);
    return;
  }
  throw new Error("was not refused");
}

test("a program without a manifest has the defaults", async () => {
  using p = place({ "a/count.bpf.o": "tc" });
  const program = (await p.open()).get("count");
  const sha256 = createHash("sha256").update("tc").digest("hex");
  assert.is(program.path, join(p.base, "a", "count.bpf.o"));
  assert.is(program.version, sha256.slice(0, 12));
  assert.is(program.sha256, sha256);
  assert.equal(program.entry, { ingress: "f0", egress: "f0" });
  assert.is(program.priority, 500);
  assert.equal(program.proceedOn, [-1, 0, 3]);
  assert.equal(program.mapScopes, { deny_list: "node" });
  assert.equal(program.mapConditions, { deny_list: "rate" });
  assert.equal(program.endingMaps, ["ended"]);
  assert.is(program.at, "pod");
  assert.is(program.failurePolicy, undefined);
  assert.is(program.object.toString(), "tc");
});

test("a manifest says the rest", async () => {
  const sha256 = createHash("sha256").update("tc xdp tc").digest("hex");
  using p = place({
    "a/limit.bpf.o": "tc xdp tc",
    "a/limit.yaml": `
version: "1.10"
description: lets through what fits
priority: 20
entry: {ingress: f2}
proceedOn: [ok, shot, ok]
maps: {flows: node, deny_list: pod}
params: {rate: 10Mbit}
sha256: ${sha256.toUpperCase()}
failurePolicy: open
namespaces: [shop-*]
at: host
nodeWide: false
`,
  });
  const program = (await p.open()).get("limit");
  assert.is(program.version, "1.10");
  assert.is(program.description, "lets through what fits");
  assert.is(program.priority, 20);
  assert.equal(program.entry, { ingress: "f2" });
  assert.equal(program.proceedOn, [0, 2]);
  assert.equal(program.mapScopes, { flows: "node", deny_list: "pod" });
  assert.equal(program.params, { rate: "10Mbit" });
  assert.is(program.failurePolicy, "open");
  assert.equal(program.namespaces, ["shop-*"]);
  assert.is(program.at, "host");
  assert.is(program.nodeWide, false);
});

test("an empty manifest is one without fields", async () => {
  using p = place({ "a/count.bpf.o": "tc", "a/count.yaml": "# nothing yet\n" });
  assert.is((await p.open()).get("count").priority, 500);
});

test("the first directory that has the object wins, with its own manifest only", async () => {
  using p = place({ "a/count.bpf.o": "tc", "b/count.bpf.o": "tc/egress", "b/count.yaml": "priority: 1" });
  const program = (await p.open()).get("count");
  assert.equal(program.entry, { ingress: "f0", egress: "f0" });
  assert.is(program.priority, 500);
});

test("an object is read and inspected once", async () => {
  using p = place({ "a/count.bpf.o": "tc" });
  const catalog = await p.open();
  const before = kernel.inspected;
  assert.is(catalog.get("count"), catalog.get("count"));
  assert.is(catalog.list().programs[0], catalog.get("count"));
  assert.is(kernel.inspected, before + 1);
});

test("an unknown program is answered with those there are and where they were looked for", async () => {
  using p = place({ "a/count.bpf.o": "tc", "b/acl.bpf.o": "tc", "a/readme.txt": "" });
  p.dirs.push(join(p.base, "c"));
  const catalog = await p.open();
  const looked = `(looked in ${p.dirs[0]}; ${p.dirs[1]}; ${p.dirs[2]}, which does not exist)`;
  refused(
    () => catalog.get("cuont"),
    code.unknownProgram,
    'no program "cuont", did you mean "count"? it has acl, count',
    looked,
  );
  const none = await openCatalog([], kernel);
  refused(() => none.get("count"), code.unknownProgram, "it has none", "no program directory is configured");
  assert.equal(
    catalog.directories.map(({ state }) => state),
    ["ok", "ok", "missing"],
  );
});

test("names that are no names are refused before a file is looked for", async () => {
  using p = place({ "a/count.bpf.o": "tc" });
  const catalog = await p.open();
  for (const name of [
    "../a/count",
    "a/count",
    ".",
    "..",
    "",
    "a..b",
    ".count",
    "count.",
    "Count",
    "co unt",
    "-c",
    "x".repeat(64),
  ]) {
    assert.not(isProgramName(name), name);
    refused(() => catalog.get(name), code.unknownProgram, "is not a program's name");
  }
  for (const name of ["count", "rate-limit", "tc_flow_monitor", "a.b", "2fast", "a--b", "a__b"])
    assert.ok(isProgramName(name), name);
});

const badManifests: [yaml: string, ...parts: string[]][] = [
  ["prioritty: 5", "unknown field prioritty (known: version, description"],
  ["a: 1\nb: 2", "unknown fields a, b"],
  ["entry: {in: f0}", "unknown field in in entry (known: ingress, egress)"],
  ["entry: {}", "entry must name a function"],
  ["entry: {ingress: main}", "entry.ingress names main, which the object does not hold"],
  ["entry: ~", "entry must be a mapping of ingress, egress or both to functions"],
  ["entry: {ingress: 5}", "entry.ingress must be text"],
  ["version: ''", "version must not be empty"],
  ["namespaces: [5]", "namespaces[0] must be a namespace, where * stands for any text"],
  [
    "params: {x: 9007199254740993}",
    "params.x must be text, a boolean or a number below 2^53 (write larger ones in quotes)",
  ],
  ["priority: 1001", "priority must be 1000 or less"],
  ["priority: -1", "priority must be 0 or more"],
  ["priority: 1.5", "priority must be a whole number"],
  ["priority: high", "priority must be a whole number"],
  ["version: 1.10", "version must be text: write it in quotes"],
  [
    "params: {__proto__: 1}",
    'params must be a mapping from parameter to value ("__proto__" cannot be one of its names)',
  ],
  [
    "maps: {__proto__: node}",
    'maps must be a mapping from map to pod or node ("__proto__" cannot be one of its names)',
  ],
  ["proceedOn: [okay]", "proceedOn[0] must be one of unspec, ok"],
  ["proceedOn: ok", "proceedOn must be a list"],
  [
    "maps: {flow: node}",
    'maps names "flow", which the object does not have, did you mean "flows"? it has flows, deny_list',
  ],
  ["maps: {.rodata: node}", 'maps names ".rodata"'],
  ["maps: {flows: cluster}", "maps.flows must be pod or node"],
  ["params: {rat: 1}", 'params.rat: there is no parameter "rat", did you mean "rate"?'],
  ["params: {rate: 1Mbitt}", 'params.rate: "1Mbitt" is not a bit rate'],
  ["params: {rate: [1]}", "params.rate must be text"],
  ["sha256: abc", "sha256 must be 64 hexadecimal digits"],
  ["failurePolicy: maybe", "failurePolicy must be closed or open"],
  ["namespaces: ['[a]']", "namespaces[0] must be a namespace"],
  ["namespaces: shop", "namespaces must be a list"],
  ["at: node", "at must be pod or host"],
  ["nodeWide: no", "nodeWide must be true or false"],
  ["- 1", "it must be a mapping"],
  ["a: b: c", "is not YAML"],
  ["priority: 1\npriority: 2", "is not YAML"],
];
for (const [yaml, ...parts] of badManifests) {
  test(`refused manifest: ${JSON.stringify(yaml)}`, async () => {
    using p = place({ "a/count.bpf.o": "tc", "a/count.yaml": yaml });
    const catalog = await p.open();
    refused(() => catalog.get("count"), code.badManifest, join(p.base, "a", "count.yaml"), ...parts);
  });
}

test("a manifest under another name is not overlooked", async () => {
  using p = place({ "a/count.bpf.o": "tc", "a/count.yml": "namespaces: [shop]" });
  const catalog = await p.open();
  refused(() => catalog.get("count"), code.badManifest, "call it count.yaml");
});

test("an object of another digest than its manifest says is refused", async () => {
  using p = place({ "a/count.bpf.o": "tc", "a/count.yaml": `sha256: "${"0".repeat(64)}"` });
  const catalog = await p.open();
  refused(() => catalog.get("count"), code.untrustedFile, "has sha256", `asks for ${"0".repeat(64)}`);
});

test("what the kernel port refuses is a bad object, with the log as details", async () => {
  using p = place({ "a/junk.bpf.o": "garbage" });
  const catalog = await p.open();
  refused(() => catalog.get("junk"), code.badObject, join(p.base, "a", "junk.bpf.o"), "it is not an ELF file");
});

test("files that others may write are refused, object or manifest", async () => {
  using p = place({ "a/count.bpf.o": "tc", "a/count.yaml": "priority: 1" });
  chmodSync(join(p.base, "a", "count.yaml"), 0o666);
  const catalog = await p.open();
  refused(() => catalog.get("count"), code.untrustedFile, "count.yaml", "mode 0666");
});

test("a directory that is not to be trusted hides what is behind it, not what is before it", async () => {
  using p = place({ "a/count.bpf.o": "tc", "b/acl.bpf.o": "tc" });
  chmodSync(join(p.base, "b"), 0o777);
  const catalog = await p.open();
  assert.is(catalog.get("count").name, "count");
  refused(() => catalog.get("acl"), code.untrustedFile, join(p.base, "b"));
  assert.instance(catalog.directories[1]?.state, RemoraError);
  assert.equal(
    catalog.list().problems.map(({ path }) => path),
    [join(p.base, "b")],
  );
});

test("the list holds what can be used, by name, and says what is wrong with the rest", async () => {
  using p = place({
    "a/zeta.bpf.o": "tc",
    "a/junk.bpf.o": "garbage",
    "a/Upper.bpf.o": "tc",
    "a/lonely.yaml": "priority: 1",
    "a/notes.txt": "",
    "b/alpha.bpf.o": "tc",
    "b/zeta.bpf.o": "xdp",
    "b/drops.bpf.o": "xdp",
  });
  const { programs, problems } = (await p.open()).list();
  assert.equal(
    programs.map(({ name }) => name),
    ["alpha", "zeta"],
  );
  const [upper, junk, lonely, drops] = problems.sort((x, y) => (x.path < y.path ? -1 : 1));
  assert.is(problems.length, 4);
  assert.match(upper?.error.message ?? "", '"Upper" is not a program\'s name');
  assert.match(junk?.error.message ?? "", "not an ELF file");
  assert.match(lonely?.error.message ?? "", "has no object lonely.bpf.o beside it");
  assert.match(drops?.error.message ?? "", "XDP does not work inside a pod");
});

test.run();
