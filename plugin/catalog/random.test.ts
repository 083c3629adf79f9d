// SPDX-License-Identifier: Apache-2.0
/** Whatever a manifest or a value holds, it is read, or refused with a reason on one line; nothing else is ever thrown. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { garble, generator, pick } from "../../e2e/lib/random.ts";
import { code, RemoraError } from "../errors.ts";
import type { BtfType, ObjectParameter } from "../kernel/port.ts";
import { readManifest } from "./manifest.ts";
import { readParameters, setParameter } from "./parameters.ts";
import { BadValue } from "./value.ts";

const manifest = `version: "1.2"
description: limits
priority: 500
entry: {ingress: f0, egress: f1}
proceedOn: [ok, unspec, pipe]
maps: {flows: node}
params: {rate: 10Mbit, on: true, size: 64}
sha256: ${"ab".repeat(32)}
failurePolicy: open
namespaces: [shop, "team-*"]
at: host
`;
const yamlPieces = [
  ...[
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!!js/function ",
    "? ",
    "- ",
    ": ",
    "|",
    ">",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
  ],
  ...[
    "{",
    "}",
    "[",
    "]",
    "'",
    '"',
    "#",
    "\t",
    "\n",
    "~",
    "null",
    ".nan",
    "-.inf",
    "1e999",
    "0x10",
    "2026-01-01",
    "__proto__: ",
  ],
];

test("20,000 manifests gone wrong", () => {
  let read = 0;
  for (let seed = 0; seed < 20_000; seed++) {
    const text = garble(generator(seed), manifest, yamlPieces);
    const note = `seed ${seed}: ${JSON.stringify(text)}`;
    try {
      const { priority, proceedOn, at, entry, maps, params } = readManifest("/p/x.yaml", text, parse);
      read++;
      assert.ok(priority === undefined || (Number.isInteger(priority) && priority >= 0 && priority <= 1000), note);
      assert.ok((proceedOn ?? []).every(Number.isInteger), note);
      assert.ok([undefined, "pod", "host"].includes(at), note);
      assert.ok(entry === undefined || (entry.ingress ?? entry.egress), note);
      for (const scope of Object.values(maps)) assert.ok(["pod", "node"].includes(scope), note);
      for (const value of Object.values(params))
        assert.ok(["string", "number", "boolean"].includes(typeof value), note);
    } catch (error) {
      assert.instance(error, RemoraError, `${note}: ${error instanceof Error ? error.stack : error}`);
      assert.is((error as RemoraError).code, code.badManifest, note);
      assert.match((error as RemoraError).message, /^\/p\/x\.yaml[^\n]{5,}$/, note);
    }
  }
  assert.ok(read > 300 && read < 19_000, `${read} were read`);
});

test("a manifest whose anchors would grow without end is refused, not expanded", () => {
  const lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"];
  for (let i = 1; i < 12; i++) lines.push(`a${i}: &a${i} [${new Array(9).fill(`*a${i - 1}`).join(", ")}]`);
  try {
    readManifest("/p/x.yaml", lines.join("\n"), parse);
    assert.unreachable();
  } catch (error) {
    assert.is((error as RemoraError).code, code.badManifest, String(error));
  }
});

const int = (size: number, signed = false): BtfType => ({ kind: "int", name: "int", size, signed, encoding: "int" });
const array = (element: BtfType, length: number): BtfType => ({
  kind: "array",
  size: element.size * length,
  length,
  element,
});
const struct = (name: string, size: number): BtfType => ({ kind: "struct", name, size, members: [] });
const char: BtfType = { kind: "int", name: "char", size: 1, signed: true, encoding: "char" };
const kinds: [type: BtfType, tags: string[], good: string][] = [
  [int(1), [], "200"],
  [int(8, true), [], "-9223372036854775808"],
  [int(8), ["unit=bitrate"], "1.5Gbit"],
  [int(4), ["unit=size"], "64KiB"],
  [int(8), ["unit=duration", "min=1ms"], "20ms"],
  [int(4), ["unit=percent"], "0.5%"],
  [int(1), ["unit=dscp"], "AF41"],
  [int(4), ["unit=ipv4"], "10.1.2.3"],
  [array(int(1), 16), ["unit=address"], "2001:db8::1"],
  [struct("remora_prefix", 24), ["unit=prefix"], "10.0.0.0/8"],
  [array(char, 8), [], "name"],
  [array(int(2), 4), [], "80, 443"],
  [array(struct("remora_rule", 40), 4), ["unit=rule"], "deny tcp 10.0.0.0/8 80-90; allow icmp"],
];
const valuePieces = [
  ...["-", "+", ".", ",", ";", "/", ":", "::", "0x", "1e9", "99999999999999999999", "%", " ", "\n", "\0", "é"],
  ...["bit", "KiB", "ms", "any", "deny ", "tcp ", "sport ", "-1", "/129", "true", "𝟙"],
];

test("50,000 values gone wrong, of every kind that a parameter can have", () => {
  let accepted = 0;
  for (let seed = 0; seed < 50_000; seed++) {
    const random = generator(seed);
    const [type, tags, good] = pick(random, kinds);
    const global: ObjectParameter = {
      name: "p",
      type,
      initial: Buffer.alloc(type.size),
      tags: tags.map((tag) => `remora:${tag}`),
    };
    const parameters = readParameters("/p/x.bpf.o", { parameters: [global] });
    const text = garble(random, good, valuePieces);
    const note = `seed ${seed}: ${JSON.stringify(text)} for ${type.kind} of ${type.size} ${tags}`;
    try {
      const { bytes, shown } = setParameter(parameters, "p", text);
      accepted++;
      const own = bytes.find(({ name }) => name === "p")?.bytes;
      assert.is(own?.length, type.size, note);
      // What is shown is what is meant.
      const again = setParameter(parameters, "p", shown).bytes.find(({ name }) => name === "p")?.bytes;
      assert.equal(again, own, `${note}, shown as ${shown}`);
    } catch (error) {
      assert.instance(error, BadValue, `${note}: ${error instanceof Error ? error.stack : error}`);
      assert.not((error as Error).message.includes("\n"), note);
    }
  }
  assert.ok(accepted > 5_000 && accepted < 45_000, `${accepted} were accepted`);
});

test.run();
