// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { FakeKernel } from "../../kernel/fake.ts";
import type { StageRequest } from "../../kernel/port.ts";
import { checkKernel } from "./kernel.ts";
import { probeFunction } from "./object.ts";

/** Knows the probe's object by a name of its own. */
class Machine extends FakeKernel {
  refusal: { code: string; message: string } | undefined;
  constructor() {
    super();
    this.namespace("/proc/self/ns/net", ["lo"]);
  }
  override loadStage(request: StageRequest) {
    const sketch = { programs: [{ name: probeFunction }], ...(this.refusal && { refusal: this.refusal }) };
    return super.loadStage({ ...request, object: this.object("probe", sketch) });
  }
}

test("a kernel that has it all", () => {
  const kernel = new Machine();
  assert.equal(
    checkKernel(kernel, "6.18.0").map(({ check, state }) => [check, state]),
    [
      ["BPF", "ok"],
      ["TCX", "ok"],
    ],
  );
  assert.equal(kernel.left(), []);
});

test("without TCX: a note that names the release, or the configuration of a newer kernel; clsact is tried", () => {
  for (const [release, remedy] of [
    ["6.1.0", /^Linux 6\.6 or later$/],
    ["6.12.0", /CONFIG_NET_XGRESS/],
  ] as const) {
    const kernel = new Machine();
    kernel.withoutTcx = true;
    const [, tcx, clsact] = checkKernel(kernel, release);
    assert.is(tcx?.state, "note");
    assert.match(tcx?.remedy ?? "", remedy);
    assert.match(tcx?.found ?? "", /clsact instead.*CAP_NET_ADMIN/);
    assert.equal([clsact?.check, clsact?.state], ["clsact", "ok"]);
    assert.equal(kernel.left(), []);
    const insists = checkKernel(kernel, release, "tcx");
    assert.equal(
      insists.map(({ check, state }) => [check, state]),
      [
        ["BPF", "ok"],
        ["TCX", "missing"],
      ],
    );
  }
});

test("without either: the options that are missing, by name", () => {
  const kernel = new Machine();
  kernel.withoutTcx = true;
  kernel.withoutClsact = true;
  for (const hook of ["auto", "clsact"] as const) {
    const clsact = checkKernel(kernel, "5.10.0", hook).at(-1);
    assert.is(clsact?.state, "missing");
    assert.match(clsact?.remedy ?? "", /CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF/);
  }
  assert.equal(kernel.left(), []);
});

test("no BPF at all, and no permission", () => {
  for (const [errno, remedy] of [
    ["ENOSYS", /CONFIG_BPF_SYSCALL/],
    ["EPERM", /as root/],
    ["EINVAL", /the reason is the kernel's/],
  ] as const) {
    const kernel = new Machine();
    kernel.failAt(1, errno);
    const checks = checkKernel(kernel, "6.18.0");
    assert.is(checks.length, 1);
    assert.is(checks[0]?.state, "missing");
    assert.match(checks[0]?.remedy ?? "", remedy);
  }
});

test("nothing stays, whichever step fails", () => {
  for (let step = 1; step <= 5; step++) {
    const kernel = new Machine();
    kernel.failAt(step);
    const checks = checkKernel(kernel, "6.18.0");
    assert.ok(
      checks.some(({ state }) => state !== "ok"),
      `step ${step}`,
    );
    assert.equal(kernel.left(), [], `step ${step}`);
  }
});

test("a program that the verifier refuses", () => {
  const kernel = new Machine();
  kernel.refusal = { code: "EINVAL", message: "tail_calls are not allowed" };
  assert.is(checkKernel(kernel, "6.18.0")[0]?.found, "tail_calls are not allowed");
  assert.equal(kernel.left(), []);
});

test.run();
