// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { FakeKernel } from "../kernel/fake.ts";
import { KernelError, type KernelPort } from "../kernel/port.ts";
import { run } from "./run.ts";

interface Outcome {
  status: number;
  stdout: string;
  stderr: string;
}

async function remora(argv: string[], kernel: KernelPort = new FakeKernel()): Promise<Outcome> {
  const outcome = { stdout: "", stderr: "" };
  const io = {
    stdout(text: string) {
      outcome.stdout += text;
    },
    stderr(text: string) {
      outcome.stderr += text;
    },
    isTerminal: false,
    columns: 0,
  };
  const status = await run(argv, io, { kernel: async () => kernel, root: "/nowhere" });
  return { status, ...outcome };
}

const names = [
  "status",
  "top",
  "trace",
  "flows",
  "maps",
  "programs",
  "inspect",
  "apply",
  "attach",
  "detach",
  "doctor",
  "gc",
  "version",
];

test("without arguments it says what it is and lists its commands", async () => {
  const { status, stdout, stderr } = await remora([]);
  assert.is(status, 0);
  assert.is(stderr, "");
  assert.match(stdout, /^Remora attaches chains of TC \(eBPF\) programs to pods/);
  assert.equal(
    [...stdout.matchAll(/^ {2}([a-z]+) {2}/gm)].map(([, name]) => name),
    names,
  );
  for (const argv of [["--help"], ["-h"], ["help"]]) assert.is((await remora(argv)).stdout, stdout);
});

for (const name of names) {
  test(`${name} --help, at most 100 columns wide`, async () => {
    const { status, stdout } = await remora([name, "--help"]);
    assert.is(status, 0);
    assert.ok(stdout.startsWith(`Usage: remora ${name} `), stdout);
    for (const option of ["--json", "--bpffs DIR", "--help"]) assert.match(stdout, option);
    for (const line of stdout.split("\n")) assert.ok(line.length <= 100, line);
    assert.is((await remora(["help", name])).stdout, stdout);
    assert.is((await remora(["--help", name])).stdout, stdout);
  });
}

test("the version is the package's", async () => {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  assert.is((await remora(["version"])).stdout, `remora ${version}\n`);
  assert.is((await remora(["--version"])).stdout, `remora ${version}\n`);
  assert.equal(JSON.parse((await remora(["--version", "--json"])).stdout), { version });
});

for (const [argv, stderr] of [
  [["stauts"], 'remora: unknown command "stauts", did you mean "status"?\nremora --help tells how.\n'],
  [["agent"], 'remora: unknown command "agent"\nremora --help tells how.\n'],
  [["constructor"], 'remora: unknown command "constructor"\nremora --help tells how.\n'],
  [["--jsn"], 'remora: unknown option --jsn, did you mean "--json"?\nremora --help tells how.\n'],
  [
    ["status", "--bpfs", "/x"],
    'remora status: unknown option --bpfs, did you mean "--bpffs"?\nremora status --help tells how.\n',
  ],
  [
    ["status", "--bpffs"],
    "remora status: option --bpffs needs a value: --bpffs DIR\nremora status --help tells how.\n",
  ],
  [
    ["status", "--bpffs", "--json"],
    "remora status: option --bpffs needs a value: --bpffs DIR\nremora status --help tells how.\n",
  ],
  [["status", "--json=yes"], "remora status: option --json takes no value\nremora status --help tells how.\n"],
  [
    ["status", "--bpffs", "/a", "--bpffs", "/b"],
    "remora status: option --bpffs is given twice\nremora status --help tells how.\n",
  ],
  [["status", "web", "db"], "remora status: one argument too many: db\nremora status --help tells how.\n"],
  [["inspect"], "remora inspect: which FILE?\nremora inspect --help tells how.\n"],
  [["version", "--no-json"], /unknown option --no-json/],
] as const) {
  test(`wrong usage: remora ${argv.join(" ")}`, async () => {
    const outcome = await remora([...argv]);
    assert.is(outcome.status, 2);
    assert.is(outcome.stdout, "");
    if (typeof stderr === "string") assert.is(outcome.stderr, stderr);
    else assert.match(outcome.stderr, stderr);
  });
}

test("no bpffs: an error with the remedy", async () => {
  for (const name of ["status", "gc"]) {
    const { status, stdout, stderr } = await remora([name, "--bpffs", "/run/pins"]);
    assert.is(status, 1);
    assert.is(stdout, "");
    assert.match(stderr, `remora ${name}: /run/pins is not on a bpffs`);
    assert.match(stderr, "mount -t bpf bpf /run/pins");
  }
});

test("an option before the command is the command's as well", async () => {
  assert.match((await remora(["--bpffs", "/run/pins", "status"])).stderr, "/run/pins is not on a bpffs");
  assert.match((await remora(["--bpffs=/run/pins", "status"])).stderr, "/run/pins is not on a bpffs");
});

test("help knows one command", async () => {
  assert.match((await remora(["help", "status"])).stdout, "Usage: remora status");
  const { status, stderr } = await remora(["help", "status", "maps"]);
  assert.equal([status, stderr.split("\n")[0]], [2, "remora: one argument too many: maps"]);
});

test("an empty node", async () => {
  assert.equal(await remora(["status"]), {
    status: 0,
    stdout: "Nothing is attached on this node (looked in /sys/fs/bpf/remora).\n",
    stderr: "",
  });
  assert.is((await remora(["status", "--json"])).stdout, '{"attachments":[]}\n');
  assert.is((await remora(["status", "web"])).status, 1);
});

test("a failure of the kernel ends with its words and its log, fit for a terminal", async () => {
  class Failing extends FakeKernel {
    override isBpffs(): boolean {
      throw new KernelError("isBpffs", "EIO", "isBpffs /x: \x1b[31mbroken", "first line\nsecond\x07 line\n");
    }
  }
  assert.equal(await remora(["status"], new Failing()), {
    status: 1,
    stdout: "",
    stderr: "remora status: isBpffs /x: \\x1b[31mbroken\nfirst line\nsecond\\x07 line\n",
  });
});

test.run();
