// SPDX-License-Identifier: Apache-2.0
/** The rules of the house, as tests: who may import whom, who alone may do what, how a test file ends. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { programs } from "./make/programs.ts";

const root = resolve(import.meta.dirname, "..");
const generated = new Set(["node_modules", "dist", "build", ".git", ".cache"]);

function walk(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory()) return generated.has(entry.name) || /^dist-/.test(entry.name) ? [] : walk(path);
    return entry.isFile() ? [path] : [];
  });
}
const files = walk("");
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const isTest = (path: string): boolean => path.endsWith(".test.ts");
/** The plugin's own code: what ends up in the runtime. */
const plugin = files.filter((path) => path.startsWith("plugin/") && path.endsWith(".ts") && !isTest(path));

/** The text without comments; strings that hold `//` behind a colon (URLs) stay whole. */
function code(path: string): string {
  return read(path)
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/(^|[^:])\/\/.*$/gm, "$1");
}

// ---- imports -----------------------------------------------------------------------------------------------------

/** Which layers each layer may import, beside itself. The nouns and errors are everybody's. */
const layers: Record<string, string[]> = {
  main: ["cli", "verbs", "log", "writing", "cni", "kernel"],
  log: ["writing"],
  cli: ["cni", "select", "catalog", "chain", "values", "trace", "flows", "writing", "kernel"],
  verbs: ["cni", "log", "select", "catalog", "chain", "kernel"],
  select: ["catalog", "mapping", "kernel"],
  catalog: ["mapping", "kernel"],
  chain: ["kernel"],
  values: ["kernel"],
  trace: ["kernel"],
  flows: ["values", "writing", "kernel"],
  kernel: [],
  cni: ["mapping"],
  mapping: [],
  writing: [],
};
const nouns = new Set(["model", "errors"]);

const layerOf = (path: string): string => path.split("/")[1]?.replace(/\.ts$/, "") ?? "";
/** What a file imports, as it is written. */
const specifiersOf = (path: string): string[] =>
  [...code(path).matchAll(/(?:(?<![.\w])from\s+|\bimport\s*\(?\s*)"([^"]+)"/g)].map((match) => match[1] ?? "");
/** The files among it, from the top of the repository. */
const importsOf = (path: string): string[] =>
  specifiersOf(path)
    .filter((name) => name.startsWith("."))
    .map((name) => relative(root, join(root, dirname(path), name)));

test("imports point one way", () => {
  const wrong: string[] = [];
  for (const path of plugin) {
    const layer = layerOf(path);
    const allowed = nouns.has(layer) ? ["kernel"] : layers[layer];
    if (!allowed) wrong.push(`${path}: no layer is called ${layer}`);
    for (const target of importsOf(path)) {
      if (target === "package.json") continue;
      const other = layerOf(target);
      const good =
        target.startsWith("plugin/") && (other === layer || nouns.has(other) || allowed?.includes(other) === true);
      if (!good) wrong.push(`${path} imports ${target}`);
    }
  }
  assert.equal(wrong, []);
});

test("the nouns and errors know of the kernel no more than the port's types", () => {
  for (const path of ["plugin/model.ts", "plugin/errors.ts"])
    for (const line of code(path).match(/^import.*$/gm) ?? [])
      assert.match(line, /^import type .* from "\.\/kernel\/port\.ts";$/);
});

test("what runs on a node depends on zod, pino and yaml alone", () => {
  const { dependencies } = JSON.parse(read("package.json"));
  assert.equal(Object.keys(dependencies), ["pino", "yaml", "zod"]);
  const wrong = plugin.flatMap((path) =>
    specifiersOf(path)
      .filter((name) => !/^(\.|node:|pino$|yaml$|zod(\/|$))/.test(name))
      .map((name) => `${path} imports ${name}`),
  );
  assert.equal(wrong, []);
});

// ---- who alone may do what ---------------------------------------------------------------------------------------

test("only plugin/main.ts touches the environment, the standard streams and the exit", () => {
  const process = /\bprocess\.(env|stdin|stdout|stderr|exit|exitCode|argv)\b|\bconsole\.|\bwrite(Sync|Whole)\(1,/;
  assert.equal(
    plugin.filter((path) => process.test(code(path))),
    ["plugin/main.ts"],
  );
});

test("only one native file includes napi.h", () => {
  const native = files.filter((path) => path.startsWith("native/") && /\.(c|cpp|h)$/.test(path));
  assert.equal(
    native.filter((path) => /#\s*include\s*[<"](napi|node_api)\.h/.test(read(path))),
    ["native/src/addon.cpp"],
  );
});

test("only plugin/chain/pins.ts spells pin paths", () => {
  // The names below an attachment's folder, where they stand in a path: `/record`, `link_`, `/g${n}`, ...
  const spelled = /\/(record|chain|counters|maps)[`"'/]|link_[`"'$]|\/g\$\{/;
  const speakers = plugin.filter((path) =>
    code(path)
      .split("\n")
      .some((line) => spelled.test(line) && !/\b(import|from)\b/.test(line)),
  );
  assert.equal(speakers, ["plugin/chain/pins.ts"]);
});

// ---- tests that run ----------------------------------------------------------------------------------------------

test("every test file ends by running each of its suites, skips nothing and uses no hook", () => {
  const wrong: string[] = [];
  for (const path of files.filter(isTest)) {
    const text = code(path);
    const suites = [...text.matchAll(/\b(?:const|let)\s+(\w+)\s*=\s*suite[(<]/g)].map((match) => match[1] ?? "");
    if (/\btest\s*\(/.test(text)) suites.push("test");
    if (suites.length === 0) wrong.push(`${path}: no test`);
    for (const name of suites) if (!text.includes(`\n${name}.run();`)) wrong.push(`${path}: ${name} is never run`);
    if (!/\n\w+\.run\(\);\s*$/.test(text)) wrong.push(`${path}: does not end with run()`);
    // uvu swallows what a hook throws.
    for (const match of text.matchAll(/\b(\w+)\.(only|skip|before|after)(\.each)?\(/g))
      if (suites.includes(match[1] ?? "")) wrong.push(`${path}: ${match[0]}`);
  }
  assert.equal(wrong, []);
});

test("every program of bpf/ is in the list that the build compiles", () => {
  const sources = files.filter((path) => /^bpf\/[^/]+\.bpf\.c$/.test(path)).map((path) => path.slice(4, -6));
  assert.equal([...programs].sort(), sources.sort());
});

// ---- licences and names ------------------------------------------------------------------------------------------

test("every source says its licence in its first lines, and the texts are here", () => {
  const wrong: string[] = [];
  for (const path of files.filter((file) => /\.(ts|js|mjs|c|cpp|h|sh)$|^\.ci\/run$|CMakeLists\.txt$/.test(file))) {
    const bpf = /^bpf\/.*\.[ch]$|\.bpf\.c$/.test(path);
    const licences = bpf ? ["(GPL-2.0-only OR BSD-2-Clause)"] : ["Apache-2.0"];
    const said = /SPDX-License-Identifier: (.*?)(?: \*\/)?$/m.exec(read(path).split("\n").slice(0, 2).join("\n"));
    if (!licences.includes(said?.[1] ?? "")) wrong.push(`${path}: ${said?.[1] ?? "no SPDX line"}`);
  }
  assert.equal(wrong, []);
  assert.match(read("LICENSE"), /Apache License/);
  for (const name of ["GPL-2.0-only", "BSD-2-Clause"]) assert.ok(existsSync(join(root, `LICENSES/${name}.txt`)), name);
});

test("no file names a package registry or a mirror", () => {
  const host =
    /https?:\/\/[\w.-]*\b(registry|mirror|deb|debian|npm\w*|pypi|crates|snapshot|archive|proxy)\b[\w.-]*\.\w+/i;
  const wrong = files.filter((path) => !/^LICENSES?\b/.test(path) && host.test(read(path)));
  assert.equal(wrong, []);
});

test.run();
