// SPDX-License-Identifier: Apache-2.0
/** An IPFIX file on a real disk, a full one among them. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "../../e2e/lib/scratch.ts";
import { RemoraError } from "../errors.ts";
import { openIpfixFile } from "./ipfix-file.ts";

const text = (length: number, letter = "m"): Buffer => Buffer.alloc(length, letter);

test("a file appears with its first messages, in place of an older one, and grows", () => {
  using world = scratch();
  const path = join(world.dir, "flows.ipfix");
  writeFileSync(path, "old");
  {
    using file = openIpfixFile(path);
    assert.is(readFileSync(path, "utf8"), "old");
    file.append([text(3), text(2, "n")]);
    assert.is(readFileSync(path, "utf8"), "mmmnn");
    file.append([text(1, "o")]);
    assert.is(readFileSync(path, "utf8"), "mmmnno");
  }
  assert.equal(readdirSync(world.dir), ["flows.ipfix"]);
  {
    using _ = openIpfixFile(path); // nothing is written to it
  }
  assert.is(readFileSync(path, "utf8"), "mmmnno", "the older file stays");
  assert.equal(readdirSync(world.dir), ["flows.ipfix"]);
});

test("a symbolic link stays one", () => {
  using world = scratch();
  const [path, link] = [join(world.dir, "real"), join(world.dir, "link")];
  writeFileSync(path, "old");
  symlinkSync(path, link);
  using file = openIpfixFile(link);
  file.append([text(3)]);
  assert.ok(lstatSync(link).isSymbolicLink());
  assert.is(readFileSync(path, "utf8"), "mmm");
});

test("a link that somebody has put where the unfinished file goes is not followed, and what a killed one left is no obstacle", () => {
  using world = scratch();
  const [path, victim] = [join(world.dir, "flows.ipfix"), join(world.dir, "victim")];
  writeFileSync(victim, "precious");
  symlinkSync(victim, `${path}.${process.pid}.part`);
  {
    using file = openIpfixFile(path);
    file.append([text(3)]);
  }
  assert.is(readFileSync(victim, "utf8"), "precious");
  assert.is(readFileSync(path, "utf8"), "mmm");
  assert.not(lstatSync(path).isSymbolicLink());
  assert.equal(readdirSync(world.dir).sort(), ["flows.ipfix", "victim"]);
});

test("a disk that is full leaves whole messages", () => {
  using world = scratch();
  const disk = join(world.dir, "disk");
  mkdirSync(disk);
  run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk);
  const path = join(disk, "flows.ipfix");
  using file = openIpfixFile(path);
  file.append([text(40_000)]);
  assert.throws(
    () => file.append([text(10_000, "n"), text(40_000, "n")]),
    (error: unknown) =>
      error instanceof RemoraError &&
      error.message === `--ipfix ${path} cannot be written: ENOSPC: no space left on device`,
  );
  assert.is(readFileSync(path, "utf8"), `${text(40_000)}`);
  file.append([text(5, "o")]);
  assert.is(readFileSync(path, "utf8"), `${text(40_000)}ooooo`);
});

test.run();
