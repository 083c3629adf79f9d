// SPDX-License-Identifier: Apache-2.0
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "../../e2e/lib/scratch.ts";
import { loadAddon, loadFromFirst, place } from "./addon.ts";
import { KernelError } from "./port.ts";

const name = "remora-0123456789abcdef.node";
const content = Buffer.from("not really an addon");
const nobody = 65534;

function folder(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), "remora-addon-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

test("the addon is written once, readable by all, writable by its owner alone", () => {
  using dir = folder();
  const path = place(dir.path, name, content);
  const first = lstatSync(path);
  assert.equal(readFileSync(path), content);
  assert.is(first.mode & 0o777, 0o644);
  assert.is(place(dir.path, name, content), path);
  assert.is(lstatSync(path).ino, first.ino);
  assert.equal(readdirSync(dir.path), [name]);
});

test("a missing folder is made, for its owner alone; a missing parent is not", () => {
  using dir = folder();
  place(join(dir.path, "new"), name, content);
  assert.is(lstatSync(join(dir.path, "new")).mode & 0o777, 0o700);
  assert.throws(() => place(join(dir.path, "a/b"), name, content), /ENOENT/);
});

test("a symbolic link in the file's place is replaced, and what it points to is left alone", () => {
  using dir = folder();
  const target = join(dir.path, "target");
  writeFileSync(target, content);
  symlinkSync(target, join(dir.path, name));
  place(dir.path, name, Buffer.from("the real content"));
  assert.ok(lstatSync(join(dir.path, name)).isFile());
  assert.equal(readFileSync(target), content);
});

for (const { what, spoil } of [
  { what: "of another owner", spoil: (path: string) => chownSync(path, nobody, nobody) },
  { what: "writable by others", spoil: (path: string) => chmodSync(path, 0o666) },
  { what: "of another size", spoil: (path: string) => writeFileSync(path, "short") },
])
  test(`a file ${what} in its place is replaced`, () => {
    using dir = folder();
    const path = join(dir.path, name);
    writeFileSync(path, "x".repeat(content.byteLength));
    spoil(path);
    place(dir.path, name, content);
    assert.equal(readFileSync(path), content);
    assert.is(lstatSync(path).uid, 0);
    assert.is(lstatSync(path).mode & 0o777, 0o644);
  });

test("a folder that others can write to, or that is not root's, is refused, and so is one below it", () => {
  using dir = folder();
  const bad = join(dir.path, "bad");
  mkdirSync(join(bad, "below"), { recursive: true });
  chmodSync(bad, 0o777);
  assert.throws(() => place(bad, name, content), /bad is writable by others/);
  assert.throws(() => place(join(bad, "below"), name, content), /bad is writable by others/);
  chmodSync(bad, 0o1777);
  assert.throws(() => place(bad, name, content), /bad is writable by others/);
  place(join(bad, "below"), name, content); // a sticky parent, as /tmp
  chmodSync(bad, 0o755);
  chownSync(bad, nobody, nobody);
  assert.throws(() => place(bad, name, content), /bad belongs to user 65534/);
  assert.equal(readdirSync(bad), ["below"]);
});

test("a symbolic link to a folder, and a file in a folder's place, are refused", () => {
  using dir = folder();
  mkdirSync(join(dir.path, "real"));
  symlinkSync(join(dir.path, "real"), join(dir.path, "link"));
  writeFileSync(join(dir.path, "file"), "");
  assert.throws(() => place(join(dir.path, "link"), name, content), /link is a symbolic link/);
  assert.throws(() => place(join(dir.path, "file"), name, content), /file is not a directory/);
});

test("a read-only folder gives way to the next, unless the file is there already", () => {
  using world = scratch();
  const [fixed, next] = [join(world.dir, "fixed"), join(world.dir, "next")];
  mkdirSync(fixed);
  mkdirSync(next);
  run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", fixed);
  run("mount", "-o", "remount,ro", fixed);
  const path = (file: string) => file;
  assert.is(loadFromFirst([fixed, next], name, content, path), join(next, name));
  run("mount", "-o", "remount,rw", fixed);
  place(fixed, name, content);
  run("mount", "-o", "remount,ro", fixed);
  assert.is(loadFromFirst([fixed, next], name, content, path), join(fixed, name));
});

test("where loading fails, as on a noexec mount, the next folder is tried; the error names them all", () => {
  using dir = folder();
  const folders = ["a", "b"].map((part) => join(dir.path, part));
  const refuse = (path: string) => {
    if (path.startsWith(folders[0] ?? "")) throw new Error("failed to map segment from shared object");
    return "loaded";
  };
  assert.is(loadFromFirst(folders, name, content, refuse), "loaded");
  chmodSync(folders[1] ?? "", 0o777);
  assert.throws(
    () => loadFromFirst(folders, name, content, refuse),
    (error: unknown) =>
      error instanceof KernelError &&
      error.message.includes("/a: failed to map segment") &&
      error.message.includes("/b: ") &&
      error.message.includes("writable by others"),
  );
});

test("many processes at once end with one whole file", async () => {
  using dir = folder();
  const big = 3 << 20;
  const script = `
    import { place } from ${JSON.stringify(join(import.meta.dirname, "addon.ts"))};
    import { readFileSync } from "node:fs";
    const content = Buffer.alloc(${big}, 7);
    process.exit(readFileSync(place(${JSON.stringify(dir.path)}, "${name}", content)).equals(content) ? 0 : 1);`;
  const children = Array.from({ length: 6 }, () =>
    spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "ignore", "inherit"] }),
  );
  const statuses = await Promise.all(children.map(async (child) => (await once(child, "exit"))[0]));
  assert.equal(statuses, [0, 0, 0, 0, 0, 0]);
  assert.equal(readdirSync(dir.path), [name]);
  assert.is(lstatSync(join(dir.path, name)).size, big);
});

test("run from source, the built addon is loaded", () => {
  assert.type(loadAddon(), "object");
});

test.run();
