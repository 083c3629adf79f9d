// SPDX-License-Identifier: Apache-2.0
/** Runs as root: owners are changed for real. */
import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, lchownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import { openTrustedDirectory, readTrustedFile } from "./trust.ts";

const nobody = 65534;

/** A directory for one test: `<base>/programs/count.bpf.o`, root's, and gone afterwards. */
function place() {
  const base = mkdtempSync(join(tmpdir(), `remora-trust-${process.pid}-`));
  const programs = join(base, "programs");
  mkdirSync(programs, { mode: 0o755 });
  const file = join(programs, "count.bpf.o");
  writeFileSync(file, "object", { mode: 0o644 });
  return {
    base,
    programs,
    file,
    read(name = "count.bpf.o", maxBytes = 100) {
      const directory = openTrustedDirectory(programs);
      assert.ok(directory);
      return readTrustedFile(directory, name, maxBytes).toString();
    },
    [Symbol.dispose]() {
      rmSync(base, { recursive: true });
    },
  };
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

function refusedAs(act: () => unknown, ...parts: string[]): void {
  const error = refusal(act);
  assert.is(error.code, code.untrustedFile, error.message);
  for (const part of parts) assert.ok(error.message.includes(part), `${error.message}\nlacks: ${part}`);
}

test("root's files in root's directories are read, below a sticky /tmp too", () => {
  using p = place();
  assert.is(p.read(), "object");
});

test("a directory that is not there is undefined, and names come sorted", () => {
  using p = place();
  assert.is(openTrustedDirectory(join(p.base, "missing")), undefined);
  writeFileSync(join(p.programs, "acl.bpf.o"), "");
  assert.equal(openTrustedDirectory(p.programs)?.names, ["acl.bpf.o", "count.bpf.o"]);
});

test("a relative program directory is a configuration error", () => {
  assert.is(refusal(() => openTrustedDirectory("programs")).code, code.invalidConfig);
});

test("a file of another owner is refused with the uid and the command", () => {
  using p = place();
  chownSync(p.file, nobody, 0);
  refusedAs(() => p.read(), `${p.file} is not to be trusted`, "uid 65534", `chown root:root ${p.file}`);
});

test("a file that others or its group may write is refused with its mode", () => {
  using p = place();
  chmodSync(p.file, 0o646);
  refusedAs(() => p.read(), "mode 0646 lets everybody write", `chmod go-w ${p.file}`);
  chmodSync(p.file, 0o664);
  refusedAs(() => p.read(), "mode 0664 lets group 0 write");
});

test("a program directory of another owner, or writable, sticky or not, is refused", () => {
  using p = place();
  chownSync(p.programs, nobody, 0);
  refusedAs(() => p.read(), "uid 65534", `chown root:root ${p.programs}`);
  chownSync(p.programs, 0, 0);
  chmodSync(p.programs, 0o1777);
  refusedAs(() => p.read(), "mode 1777", `chmod go-w ${p.programs}`);
});

test("a parent that others may write is refused unless it is sticky, one of another owner always", () => {
  using p = place();
  chmodSync(p.base, 0o777);
  refusedAs(() => p.read(), `${p.base} is not`, "mode 0777");
  chmodSync(p.base, 0o1777);
  assert.is(p.read(), "object");
  chownSync(p.base, nobody, 0);
  refusedAs(() => p.read(), `${p.base} is not`, "uid 65534");
});

test("a symlink within the directory is followed, relative, absolute, and through folders", () => {
  using p = place();
  symlinkSync("count.bpf.o", join(p.programs, "relative.bpf.o"));
  symlinkSync(p.file, join(p.programs, "absolute.bpf.o"));
  mkdirSync(join(p.programs, "..2026"));
  writeFileSync(join(p.programs, "..2026", "mounted.bpf.o"), "mounted", { mode: 0o644 });
  symlinkSync("..2026", join(p.programs, "..data"));
  symlinkSync("..data/mounted.bpf.o", join(p.programs, "mounted.bpf.o"));
  assert.is(p.read("relative.bpf.o"), "object");
  assert.is(p.read("absolute.bpf.o"), "object");
  assert.is(p.read("mounted.bpf.o"), "mounted");
});

test("a symlink out of the directory is refused, also to a sibling with the same beginning", () => {
  using p = place();
  mkdirSync(join(p.base, "programs-old"));
  writeFileSync(join(p.base, "programs-old", "x"), "", { mode: 0o644 });
  symlinkSync("../programs-old/x", join(p.programs, "x.bpf.o"));
  refusedAs(
    () => p.read("x.bpf.o"),
    "leads out of its directory",
    "cp --remove-destination",
    join(p.programs, "x.bpf.o"),
  );
  symlinkSync("/etc/passwd", join(p.programs, "passwd.bpf.o"));
  refusedAs(() => p.read("passwd.bpf.o"), "to /etc/passwd");
});

test("a name cannot climb out", () => {
  using p = place();
  writeFileSync(join(p.base, "outside"), "", { mode: 0o644 });
  refusedAs(() => p.read("../outside"), "leads out");
});

test("a symlinked program directory is fine where the link and its way are root's", () => {
  using p = place();
  const link = join(p.base, "link");
  symlinkSync("programs", link);
  assert.equal(openTrustedDirectory(link)?.names, ["count.bpf.o"]);
  lchownSync(link, nobody, 0);
  refusedAs(() => openTrustedDirectory(link), "uid 65534", `chown -h root:root ${link}`);
});

test("a folder inside, that a symlink leads through, is held to the same rule", () => {
  using p = place();
  const inner = join(p.programs, "v1");
  mkdirSync(inner);
  writeFileSync(join(inner, "x"), "", { mode: 0o644 });
  symlinkSync("v1/x", join(p.programs, "x.bpf.o"));
  chmodSync(inner, 0o1777);
  refusedAs(() => p.read("x.bpf.o"), `${inner} is not`, "mode 1777");
});

test("circles of symlinks, FIFOs and folders are refused", () => {
  using p = place();
  symlinkSync("b", join(p.programs, "a"));
  symlinkSync("a", join(p.programs, "b"));
  refusedAs(() => p.read("a"), "circle");
  execFileSync("mkfifo", ["-m", "644", join(p.programs, "fifo")]);
  refusedAs(() => p.read("fifo"), "not a regular file");
  mkdirSync(join(p.programs, "folder"));
  refusedAs(() => p.read("folder"), "not a regular file");
});

test("a program directory that is a file is refused", () => {
  using p = place();
  refusedAs(() => openTrustedDirectory(p.file), "not a directory");
});

test("a file above the bound is refused, one at the bound is read", () => {
  using p = place();
  assert.is(p.read("count.bpf.o", 6), "object");
  refusedAs(() => p.read("count.bpf.o", 5), "larger than 5 bytes");
});

test("a dangling symlink and a missing file are read errors that name the path", () => {
  using p = place();
  symlinkSync("gone", join(p.programs, "dangling.bpf.o"));
  for (const name of ["dangling.bpf.o", "missing.bpf.o"]) {
    const error = refusal(() => p.read(name));
    assert.is(error.code, code.ioFailure);
    assert.ok(error.message.includes(join(p.programs, name)), error.message);
  }
});

test.run();
