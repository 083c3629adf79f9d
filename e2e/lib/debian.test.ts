// SPDX-License-Identifier: Apache-2.0
/** Packages of other suites, where the mirror cannot be reached: what was fetched before will do, and else it is said. */
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { newest } from "./debian.ts";
import { scratch } from "./scratch.ts";

/** `newest` of trixie in a process of its own, on a machine whose mirror nobody answers for. */
function unreachable(cache: string) {
  const program = `
    import { newest } from ${JSON.stringify(join(import.meta.dirname, "debian.ts"))};
    process.stdout.write(newest(${JSON.stringify(cache)}, "trixie", () => { throw new Error("not reached"); }));`;
  const env = { ...process.env, DEBIAN_MIRROR: "http://127.0.0.1:9/debian" };
  return spawnSync(process.execPath, ["--input-type=module", "--eval", program], { encoding: "utf8", env });
}
/** As of a process that has ended long ago: process ids end at 4194304. */
const remains = "new-4194305";

test("a mirror that does not answer: an error that says so, and nothing is left", () => {
  using world = scratch();
  const cache = join(world.dir, "cache");
  const { status, stderr } = unreachable(cache);
  assert.is(status, 1);
  assert.match(stderr, /apt-get .*update: exit 100/);
  assert.match(stderr, /127\.0\.0\.1:9/);
  assert.equal(readdirSync(cache), []);
});

test("what was fetched before will do, with a word; what a killed run left is taken away", () => {
  using world = scratch();
  const cache = join(world.dir, "cache");
  mkdirSync(join(cache, "thing-1"), { recursive: true });
  mkdirSync(join(cache, remains));
  writeFileSync(join(cache, "newest"), "thing-1 0");
  const { status, stdout, stderr } = unreachable(cache);
  assert.is(status, 0, stderr);
  const [said = "", folder] = stdout.split("\n");
  assert.match(said, /^trixie: apt-get .* thing-1, fetched before, will do$/);
  assert.is(folder, join(cache, "thing-1"));
  assert.equal(readdirSync(cache).sort(), ["newest", "thing-1"]);
  assert.is(readFileSync(join(cache, "newest"), "utf8"), "thing-1 0");
});

test("what was asked for today is not asked for again", () => {
  using world = scratch();
  mkdirSync(join(world.dir, "thing-2"));
  writeFileSync(join(world.dir, "newest"), `thing-2 ${Date.now()}`);
  const find = (): never => assert.unreachable("the suite was asked") as never;
  assert.is(newest(world.dir, "trixie", find), join(world.dir, "thing-2"));
});

test.run();
