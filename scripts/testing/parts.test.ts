// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { findTests, select } from "./parts.ts";

function tree(...paths: string[]): Disposable & { dir: string } {
  const dir = mkdtempSync(join(tmpdir(), "remora-parts-"));
  for (const path of paths) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), "");
  }
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
}

test("each test file belongs to one part, in the order of a run", () => {
  using root = tree(
    "e2e/containerd/pod.test.ts",
    "e2e/protocol/a.test.ts",
    "e2e/tree/tree.test.ts",
    "plugin/kernel/native.test.ts",
    "plugin/chain/plan.test.ts",
    "plugin/chain/attach.kernel.test.ts",
    "plugin/chain/plan.ts",
    "plugin/fixtures/lie.test.ts",
    "dist/a.test.ts",
  );
  assert.equal(
    findTests(root.dir).map((file) => `${file.part.name} ${file.path}`),
    [
      "unit plugin/chain/plan.test.ts",
      "kernel plugin/chain/attach.kernel.test.ts",
      "kernel plugin/kernel/native.test.ts",
      "protocol e2e/protocol/a.test.ts",
      "tree e2e/tree/tree.test.ts",
      "e2e e2e/containerd/pod.test.ts",
    ],
  );
});

test("a test file that no part runs is an error", () => {
  using root = tree("elsewhere/a.test.ts");
  assert.throws(() => findTests(root.dir), /elsewhere\/a\.test\.ts belongs to no part/);
});

test("words select a part or a piece of a path, and a word that selects nothing is an error", () => {
  using root = tree("plugin/a/one.test.ts", "plugin/a/kernel-name.test.ts", "bpf/acl.test.ts");
  const files = findTests(root.dir);
  const paths = (...words: string[]) => select(files, words).map((file) => file.path);
  assert.is(paths().length, 3);
  assert.equal(paths("kernel"), ["bpf/acl.test.ts"]);
  assert.equal(paths("one"), ["plugin/a/one.test.ts"]);
  assert.equal(paths("one", "acl"), ["plugin/a/one.test.ts", "bpf/acl.test.ts"]);
  assert.throws(() => paths("one", "nonsense"), /no test file matches "nonsense"/);
});

test.run();
