// SPDX-License-Identifier: Apache-2.0
/** The launcher with a stand-in for the runtime that goes wrong in every way there is. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import { newestVersion } from "../../plugin/cni/version.ts";
import { code as errors } from "../../plugin/errors.ts";
import { compileLauncher } from "../../scripts/make/launcher.ts";

const loader = process.arch === "arm64" ? "ld-linux-aarch64.so.1" : "ld-linux-x86-64.so.2";

/** An installation tree whose runtime is the stand-in. */
function tree(world: Scratch): { launcher: string; runtime: string; loader: string } {
  const launcher = join(world.dir, "remora");
  const runtime = join(world.dir, "runtime");
  compileLauncher(resolve(import.meta.dirname, "../.."), launcher);
  mkdirSync(runtime);
  run(
    "musl-gcc",
    "-static",
    "-Wall",
    "-Werror",
    join(import.meta.dirname, "fixtures/loader.c"),
    "-o",
    join(runtime, loader),
  );
  writeFileSync(join(runtime, "remora-runtime"), "");
  return { launcher, runtime, loader: join(runtime, loader) };
}

const world = scratch();
const fake = tree(world);

interface Answer {
  status: number | null;
  stdout: string;
  stderr: string;
}
function launch(env: Record<string, string>, ...args: string[]): Answer {
  const { status, stdout, stderr } = spawnSync(fake.launcher, args, { env, encoding: "utf8", maxBuffer: 64 << 20 });
  return { status, stdout, stderr };
}
const plugin = (FAKE: string, CNI_COMMAND = "ADD") => launch({ FAKE, CNI_COMMAND });

/** Asserts one CNI error object, and returns its message. */
function errorOf({ status, stdout }: Answer): string {
  assert.is(status, 1);
  const { cniVersion, code, msg, ...rest } = JSON.parse(stdout);
  assert.equal({ cniVersion, code, rest }, { cniVersion: newestVersion, code: errors.internal, rest: { details: "" } });
  return msg;
}

for (const mode of [{}, { CNI_COMMAND: "ADD" }])
  test(`the runtime is started through its own loader, in a clean environment (${JSON.stringify(mode)})`, () => {
    const answer = launch(
      {
        ...mode,
        FAKE: "tell",
        PATH: "/bin",
        NODE_OPTIONS: "--require=/nonexistent",
        LD_PRELOAD: "/nonexistent",
        LD_LIBRARY_PATH: "/nonexistent",
        GLIBC_TUNABLES: "x",
        MY_NODE_OPTIONS: "kept",
        CNI_ARGS: "A=B",
      },
      "status",
      "--json",
    );
    assert.is(answer.status, 0, answer.stderr);
    const told = JSON.parse(answer.stdout);
    assert.equal(told.arguments, [
      fake.loader,
      ...["--inhibit-cache", "--library-path", fake.runtime, "--argv0", fake.launcher],
      join(fake.runtime, "remora-runtime"),
      ...["status", "--json"],
    ]);
    const kept = [...Object.entries(mode).map(([name, value]) => `${name}=${value}`), "CNI_ARGS=A=B", "FAKE=tell"];
    assert.equal(told.environment.sort(), [...kept, "MY_NODE_OPTIONS=kept", "PATH=/bin"].sort());
  });

test("an empty CNI_COMMAND is none", () => {
  assert.equal(launch({ FAKE: "fail x", CNI_COMMAND: "" }), { status: 3, stdout: "x", stderr: "" });
});

test("a result and an error go through as they are", () => {
  const result = ' {"a":"}{\\"\\\\","b":[{},[]]}\n';
  assert.equal(plugin(`print ${result}`), { status: 0, stdout: result, stderr: "" });
  assert.equal(plugin('fail {"code":7}'), { status: 1, stdout: '{"code":7}', stderr: "" });
  assert.is(plugin("big").stdout.length, (1 << 20) + 8);
});

test("silence is success for verbs that have nothing to say, and for those only", () => {
  for (const verb of ["DEL", "CHECK", "GC", "STATUS"])
    assert.equal(plugin("print ", verb), { status: 0, stdout: "", stderr: "" });
  for (const verb of ["ADD", "VERSION"])
    assert.match(errorOf(plugin("print ", verb)), /exited with status 0 and printed nothing$/);
  assert.match(errorOf(plugin("fail ", "DEL")), /exited with status 3 and printed nothing$/);
});

for (const text of ["hello", '{"a":', '{"a":"}', "{}{}", "[]", "{} x", "null", "}", '{"é'])
  test(`${text} is no answer`, () => {
    for (const verb of ["ADD", "DEL"])
      assert.match(
        errorOf(plugin(`print ${text}`, verb)),
        new RegExp(
          `exited with status 0 and printed something else than a JSON object: .{${Buffer.byteLength(text)}}$`,
        ),
      );
  });

for (const verb of ["ADD", "DEL", "VERSION"]) {
  test(`${verb}: a runtime killed by a signal is named, whatever it had printed`, () => {
    assert.match(errorOf(plugin("killed", verb)), /killed by signal 9 \(out of memory\?\)$/);
    assert.match(errorOf(plugin("crash", verb)), /killed by signal 11 \(Segmentation fault\)$/);
  });
}

test("a runtime that prints without end is killed", () => {
  assert.match(errorOf(plugin("mad")), /printed more than fits into memory or 32 MiB, and was killed$/);
});

test("another process that holds stdout open is not waited for", async () => {
  const child = spawn(fake.launcher, {
    env: { FAKE: "daemon", CNI_COMMAND: "ADD" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exit = once(child, "exit");
  const [line] = await once(child.stderr, "data");
  const [status] = await exit;
  assert.is(status, 0);
  assert.ok(isAlive(Number(line)));
  process.kill(Number(line), "SIGKILL");
});

test("a signal is passed on, and the runtime's end by it is answered", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const { child, pid } = await waiting();
    const stdout = child.stdout.toArray();
    child.kill(signal);
    const [status] = await once(child, "exit");
    assert.match(errorOf({ status, stdout: Buffer.concat(await stdout).toString(), stderr: "" }), /killed by signal/);
    assert.not.ok(existsSync(`/proc/${pid}`));
  }
});

test("the runtime dies with a launcher that is killed", async () => {
  const { child, pid } = await waiting();
  child.kill("SIGKILL");
  await once(child, "exit");
  while (isAlive(pid)) await sleep(5);
});

test("an ignored SIGCHLD of the caller changes nothing", () => {
  const answer = spawnSync("env", ["--ignore-signal=CHLD", fake.launcher], {
    env: { FAKE: "print {}", CNI_COMMAND: "ADD" },
    encoding: "utf8",
  });
  assert.equal([answer.status, answer.stdout], [0, "{}"]);
});

test("what was printed just before the end is not lost", () => {
  for (let i = 0; i < 100; i++) assert.is(plugin("print {}").stdout, "{}");
});

test("closed descriptors of the caller do not mix up the pipes", () => {
  const close = (what: string) =>
    spawnSync("sh", ["-c", `exec "$0" ${what}`, fake.launcher], {
      env: { FAKE: "print {}", CNI_COMMAND: "ADD" },
      encoding: "utf8",
    });
  assert.equal([close("<&- 2>&-").status, close("<&- 2>&-").stdout], [0, "{}"]);
  assert.is(close(">&-").status, 1);
});

test("a loader that cannot be executed, and a runtime that is not there, are said", () => {
  using other = scratch();
  const broken = tree(other);
  const ask = (env: Record<string, string>) => spawnSync(broken.launcher, { env, encoding: "utf8" });

  chmodSync(broken.loader, 0o644);
  assert.match(errorOf(ask({ CNI_COMMAND: "DEL" })), /cannot start the runtime: .*ld-linux.*: Permission denied$/);
  assert.match(ask({}).stderr, /^remora: cannot start the runtime: .*: Permission denied\n$/);
  assert.is(ask({}).status, 1);

  chmodSync(broken.loader, 0o755);
  writeFileSync(broken.loader, "\u007fELF, but not really");
  assert.match(errorOf(ask({ CNI_COMMAND: "ADD" })), /Exec format error$/);

  rmSync(broken.loader);
  assert.match(errorOf(ask({ CNI_COMMAND: "VERSION" })), /cannot start the runtime: .*: No such file or directory$/);

  rmSync(broken.runtime, { recursive: true });
  assert.match(
    errorOf(ask({ CNI_COMMAND: "ADD" })),
    /^the runtime is not there: \/opt\/remora\/runtime\/remora-runtime: .*\(it belongs beside the launcher/,
  );
  assert.match(ask({}).stderr, /^remora: the runtime is not there/);
  assert.is(ask({}).status, 1);
});

/** A launcher whose runtime waits for ever, and the runtime's pid. */
async function waiting() {
  const child = spawn(fake.launcher, { env: { FAKE: "wait", CNI_COMMAND: "ADD" }, stdio: ["ignore", "pipe", "pipe"] });
  const [line] = await once(child.stderr, "data");
  return { child, pid: Number(line) };
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

test.run();
