// SPDX-License-Identifier: Apache-2.0
/** What the READMEs offer to paste is what the built library and this version take. */
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { openCatalog } from "../../plugin/catalog/catalog.ts";
import { readConfig } from "../../plugin/cni/schema.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { programsKey } from "../../plugin/select/annotations.ts";
import { select } from "../../plugin/select/select.ts";
import { type Scratch, scratch } from "../lib/scratch.ts";

const root = resolve(import.meta.dirname, "../..");
const documents = ["README.md", "bpf/README.md", "conflist/README.md"];

/** The fenced blocks of a language, each with where it stands. */
function blocks(language: string): { where: string; body: string }[] {
  return documents.flatMap((path) => {
    const text = readFileSync(join(root, path), "utf8");
    return [...text.matchAll(/^```(\w+)\n([\s\S]*?)^```/gm)].flatMap(([, found, body = ""], index) =>
      found === language ? [{ where: `${path}, block ${index + 1}`, body }] : [],
    );
  });
}

/** A pod's annotations; where a block lists lines to choose from (a key stands twice), each for itself. */
function annotationsIn(body: string): Record<string, string>[] {
  const lines = body.split("\n").filter((line) => line.includes("remora.io"));
  const keys = lines.map((line) => line.trim().split(":")[0]);
  if (new Set(keys).size < keys.length) return lines.map((line) => parse(line.trim()));
  const document = parse(body);
  return [document.metadata?.annotations ?? document];
}

/** The programs whose parameters are set, where a line says nothing of which programs are meant. */
function namedIn(annotations: Record<string, string>): string {
  return [...new Set(Object.keys(annotations).map((key) => key.split(".remora.io/")[0] ?? ""))].join(",");
}

function library(world: Scratch): string {
  const folder = join(world.dir, "programs");
  mkdirSync(folder, { mode: 0o755 });
  for (const name of readdirSync(join(root, "dist/programs"))) {
    copyFileSync(join(root, "dist/programs", name), join(folder, name));
    chmodSync(join(folder, name), 0o644);
  }
  return folder;
}

test("every annotation", async () => {
  using world = scratch();
  const catalog = await openCatalog([library(world)], createNativeKernel());
  const config = { chain: [], allow: { "*": ["*"] }, failurePolicy: "closed" as const };
  const pod = { namespace: "default", name: "web", uid: "" };
  const assigned = () => ({ addresses: ["10.0.0.1", "fd00::1"], mac: "02:00:00:00:00:01", mtu: 1500 });
  const seen = new Set<string>();
  for (const { where, body } of blocks("yaml").filter((block) => block.body.includes("remora.io")))
    for (const given of annotationsIn(body)) {
      const annotations = { [programsKey]: namedIn(given), ...given };
      try {
        const { selected } = select({ config, annotations, pod, catalog, assigned });
        for (const { program } of selected) seen.add(program.name);
      } catch (error) {
        throw new Error(`${where}: ${JSON.stringify(given)}: ${(error as Error).message}`);
      }
    }
  assert.ok(seen.size > 5, [...seen].join(", "));
});

test("every entry of a conflist", () => {
  const entries = blocks("json").filter(({ body }) => body.includes('"type": "remora"'));
  assert.ok(entries.length > 1);
  for (const { where, body } of entries)
    try {
      readConfig(JSON.parse(body), "pods");
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`);
    }
});

test.run();
