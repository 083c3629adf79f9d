// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "../../e2e/lib/scratch.ts";
import { BuildError } from "./step.ts";
import { linkedHere, linkedThere, requireIntegrity, targetOf } from "./target.ts";

const root = resolve(import.meta.dirname, "../..");

const refusal = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    assert.instance(error, BuildError);
    return (error as Error).message;
  }
  return assert.unreachable("it was not refused") as never;
};

test("this machine is built for in dist, others beside it; one that is not known is an error that names those", () => {
  assert.is(targetOf(root).dist, "dist");
  assert.is(targetOf(root).dist, targetOf(root, process.arch).dist);
  const other = process.arch === "x64" ? "arm64" : "x64";
  assert.equal([targetOf(root, other).dist, targetOf(root, other).runsHere], [`dist-${other}`, false]);
  for (const name of ["aarch64", "toString"])
    assert.is(
      refusal(() => targetOf(root, name)),
      `no architecture "${name}"; there are x64 and arm64`,
    );
});

test("what files link to is found in a root folder as the loader finds it, and what is not there is named", () => {
  const node = targetOf(root).node();
  const names = (paths: string[]): string[] => paths.map((path) => basename(path)).sort();
  const triplet = run("gcc", "-print-multiarch").trim();
  const found = linkedThere(root, "readelf", [node], "/", triplet);
  assert.ok(found.length > 4);
  assert.equal(names(found), names(linkedHere(root, [node])));
  using world = scratch();
  assert.match(
    refusal(() => linkedThere(root, "readelf", [node], world.dir, triplet)),
    /bin\/node needs \S+\.so\S*, which is not in /,
  );
});

test("a package that is not the pinned one is refused", () => {
  using world = scratch();
  const file = join(world.dir, "package.tgz");
  writeFileSync(file, "bytes");
  // printf bytes | openssl dgst -sha512 -binary | base64 -w0
  const pinned = "sha512-rYerwe+0LgMgfzqYuPQR2tCVOqI9TTGaQkiAznBaEhke4sc3DCJOLYpoG4dctq+kYb25moaTst23SyXfAAINTQ==";
  requireIntegrity(file, pinned, "node 1");
  writeFileSync(file, "other bytes");
  assert.ok(
    refusal(() => requireIntegrity(file, pinned, "node 1")).startsWith(
      "node 1 is not the one that package-lock.json pins: sha512-",
    ),
  );
});

test.run();
