// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { FakeKernel } from "../kernel/fake.ts";
import { KernelError, type KernelPort, type StageRequest } from "../kernel/port.ts";
import { probeFunction } from "./checks/object.ts";
import { renderChecks } from "./doctor.ts";
import { run } from "./run.ts";

/** Knows the probe's object by a name of its own. */
class Machine extends FakeKernel {
  constructor() {
    super();
    this.namespace("/proc/self/ns/net", ["lo"]);
  }
  override loadStage(request: StageRequest) {
    return super.loadStage({ ...request, object: this.object("probe", { programs: [{ name: probeFunction }] }) });
  }
}

const healthy: Record<string, string> = {
  "/proc/sys/kernel/osrelease": "6.18.1\n",
  "/proc/self/status": "CapEff:\t000001ffffffffff\n",
  "/proc/sys/net/core/bpf_jit_enable": "1\n",
  "/sys/kernel/btf/vmlinux": "",
  "/etc/cni/net.d/10-pods.conflist": JSON.stringify({
    cniVersion: "1.0.0",
    name: "pods",
    plugins: [
      { type: "ptp" },
      {
        type: "remora",
        capabilities: { "io.kubernetes.cri.pod-annotations": true },
        bpffs: "/sys/fs/bpf/of-the-conflist",
        programDirs: ["/nowhere/programs"],
      },
    ],
  }),
  "/opt/cni/bin/remora": "",
  "/opt/remora/runtime/remora": "",
};

async function doctor(argv: string[], files: Record<string, string>, kernel: () => KernelPort = () => new Machine()) {
  const root = mkdtempSync(join(tmpdir(), "remora-doctor-"));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text, { mode: 0o755 });
    }
    let stdout = "";
    const io = {
      stdout(text: string) {
        stdout += text;
      },
      stderr() {},
      isTerminal: false,
      columns: 0,
    };
    const status = await run(["doctor", ...argv], io, { kernel: async () => kernel(), root });
    return { status, stdout };
  } finally {
    rmSync(root, { recursive: true });
  }
}

interface Line {
  check: string;
  state: string;
  found: string;
  remedy?: string;
}
const linesOf = (stdout: string): Line[] => JSON.parse(stdout).checks;

test("a machine that has it all; the places are those of the conflist", async () => {
  const { status, stdout } = await doctor(["--json"], healthy);
  assert.equal(
    linesOf(stdout).map(({ check, state }) => [check, state]),
    [
      ["Linux release", "ok"],
      ["capabilities", "ok"],
      ["BPF JIT", "ok"],
      ["kernel BTF", "ok"],
      ["BPF", "ok"],
      ["TCX", "ok"],
      ["bpffs", "ok"],
      ["programs", "note"],
      ["CNI configuration", "ok"],
      ["CNI executable", "ok"],
    ],
  );
  assert.is(linesOf(stdout)[6]?.found, "/sys/fs/bpf/of-the-conflist");
  assert.is(linesOf(stdout)[7]?.found, "no program in /nowhere/programs");
  assert.is(JSON.parse(stdout).ok, true);
  assert.is(status, 0);
});

test("the command line's places go before the conflist's", async () => {
  const { stdout } = await doctor(["--json", "--bpffs", "/sys/fs/bpf/x", "--dir", "/nowhere/y"], healthy);
  assert.is(linesOf(stdout)[6]?.found, "/sys/fs/bpf/x");
  assert.is(linesOf(stdout)[7]?.found, "no program in /nowhere/y");
});

test("anything that is missing fails, with a remedy", async () => {
  const cases: [files: Record<string, string>, check: string, argv?: string[]][] = [
    [{ ...healthy, "/proc/sys/net/core/bpf_jit_enable": "0\n" }, "BPF JIT"],
    [{ ...healthy, "/proc/self/status": "CapEff:\t0\n" }, "capabilities"],
    [{ ...healthy, "/proc/sys/kernel/osrelease": "4.19.0\n" }, "Linux release"],
    [healthy, "bpffs", ["--bpffs", "/run/pins"]],
    [healthy, "CNI executable", ["--cni-bin", "/opt/other/bin"]],
  ];
  for (const [files, check, argv = []] of cases) {
    const { status, stdout } = await doctor(["--json", ...argv], files);
    const missing = linesOf(stdout).filter(({ state }) => state === "missing");
    assert.is(status, 1, check);
    assert.equal(
      missing.map((line) => line.check),
      [check],
    );
    assert.ok(missing[0]?.remedy, check);
  }
});

test("without the addon the rest is still looked at", async () => {
  const { status, stdout } = await doctor(["--json"], healthy, () => {
    throw new KernelError("loadAddon", "EREFUSED", "no folder to load the addon from");
  });
  assert.is(status, 1);
  const lines = linesOf(stdout);
  assert.equal(
    lines.filter(({ state }) => state === "missing").map(({ check, found }) => [check, found]),
    [["native addon", "no folder to load the addon from"]],
  );
  assert.is(lines.at(-1)?.check, "CNI executable");
});

test("the page", () => {
  const page = { width: 60, paint: (text: string) => text };
  assert.is(
    renderChecks(
      [
        { check: "BPF", state: "ok", found: "a chain's program was loaded" },
        {
          check: "bpffs",
          state: "missing",
          found: "/sys/fs/bpf/remora is not on a bpffs",
          remedy: "mount -t bpf bpf /sys/fs/bpf",
        },
      ],
      page,
    ),
    `ok       BPF    a chain's program was loaded
missing  bpffs  /sys/fs/bpf/remora is not on a bpffs
           remedy: mount -t bpf bpf /sys/fs/bpf

One thing is missing; until then pods cannot have chains.
`,
  );
  assert.match(renderChecks([{ check: "BPF", state: "ok", found: "" }], page), "Pods of this node can have chains.\n");
});

test("the node's chain: what cannot be selected fails every pod; what may be missing is a note", async () => {
  const look = async (entry: object) => {
    const plugins = [{ type: "ptp" }, { type: "remora", programDirs: ["/nowhere/programs"], ...entry }];
    const files = {
      ...healthy,
      "/etc/cni/net.d/10-pods.conflist": JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins }),
    };
    const { status, stdout } = await doctor(["--json"], files);
    const checks = linesOf(stdout).filter(({ check }) => check === "node's chain");
    return { status, states: checks.map(({ state }) => state), words: JSON.stringify(checks) };
  };
  const chain = [{ program: "count" }];
  assert.equal((await look({})).states, []);
  const closed = await look({ chain });
  assert.equal([closed.status, closed.states], [1, ["missing"]]);
  assert.match(closed.words, /chain\[0\] of the node's configuration: this node has no program/);
  const open = await look({ chain, failurePolicy: "open" });
  assert.equal(open.states, ["ok", "note"]);
  assert.match(open.words, "no program, on every pod");
});

test("the node's chain: one that cannot be planned or stand on this kernel fails every pod", async () => {
  const folder = mkdtempSync(join(tmpdir(), "remora-doctor-programs-"));
  try {
    const look = async (config: object, kernel = new Machine()) => {
      writeFileSync(join(folder, "wall.bpf.o"), kernel.object("wall"), { mode: 0o644 });
      const plugins = [{ type: "ptp" }, { type: "remora", programDirs: [folder], ...config }];
      const files = {
        ...healthy,
        "/etc/cni/net.d/10-pods.conflist": JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins }),
      };
      const { status, stdout } = await doctor(["--json"], files, () => kernel);
      const checks = linesOf(stdout).filter(({ check }) => check === "node's chain");
      return `${status} ${checks.map(({ state, found }) => `${state} ${found}`).join(" ")}`;
    };
    const chain = [{ program: "wall", at: "host" }];
    assert.is(await look({ chain }), "0 ok wall, on every pod");
    assert.match(await look({ chain: new Array(33).fill({ program: "wall" }) }), /^1 missing .*at most 32/);
    const old = new Machine();
    old.withoutTcx = true;
    assert.match(await look({ chain }, old), /^1 missing wall: at: host takes TCX.*this kernel has no TCX/);
    assert.match(
      await look({ chain, failurePolicy: "open" }, old),
      /^0 ok no program, on every pod note pods start without it: wall: at: host takes TCX/,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
