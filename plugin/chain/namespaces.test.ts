// SPDX-License-Identifier: Apache-2.0
/**
 * A kernel gives a namespace's number again as soon as it is free, and the index of its interface as well; and paths come back,
 * such as /proc/PID/ns/net or what an administrator has named. Another pod there must not get the chain of the one before.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type RemoraError } from "../errors.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import type { HookName } from "../model.ts";
import { attach } from "./attach.ts";
import { change } from "./change.ts";
import { check } from "./check.ts";
import { collect } from "./collect.ts";
import { bpffs, caught, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { type ChainPlan, plan } from "./plan.ts";
import { readRecord } from "./record.ts";
import { replace } from "./replace.ts";
import { settle } from "./settle.ts";

const pins = pinsOf(bpffs, id);

const planOf = (kernel: FakeKernel, hook: HookName, name: string, generation = 1): ChainPlan =>
  plan(input(kernel, [select(kernel, name)], { hook, generation }));
const attached = (kernel: FakeKernel): number => kernel.chains("ingress").length + kernel.chains("egress").length;
async function errorOf(act: () => unknown): Promise<RemoraError> {
  try {
    await act();
  } catch (error) {
    return error as RemoraError;
  }
  throw new Error("nothing failed");
}

for (const hook of ["tcx", "clsact"] as const) {
  const before = (): FakeKernel => {
    const kernel = machine();
    attach(kernel, planOf(kernel, hook, "old"));
    return kernel;
  };

  test(`${hook}: a change, and CHECK, take the namespace of another pod for what it is`, async () => {
    const kernel = before();
    kernel.renewNamespace(netns);
    const changed = await errorOf(() => change(kernel, bpffs, id, () => planOf(kernel, hook, "new", 2)));
    assert.is(changed.code, code.attachmentDiffers, changed.message);
    const checked = await errorOf(() => check(kernel, bpffs, id, netns));
    assert.is(checked.code, code.attachmentDiffers, checked.message);
    assert.match(checked.message, /\(cookie \d+\), the chain was attached in \d+ /);
    assert.is(attached(kernel), 0);
    assert.equal(
      collect(kernel, bpffs).removed.map(({ reason }) => reason),
      ["its interface is gone"],
    );
    assert.equal(kernel.left(), []);
  });

  test(`${hook}: an interrupted change is not completed in the namespace of another pod`, () => {
    const kernel = before();
    const old = readRecord(kernel, pins);
    assert.ok(old);
    const next = planOf(kernel, hook, "new", 2);
    kernel.interfere = (operation) => {
      if (
        operation.startsWith("names") ||
        operation.startsWith("pin /sys/fs/bpf/remora/podnet/c0ffee%2e1:eth0/record_next")
      )
        kernel.crashAt(1);
    };
    assert.throws(() => replace(kernel, next, old));
    kernel.interfere = undefined;
    kernel.restart();
    assert.ok(kernel.files().includes(pins.nextRecord));
    kernel.renewNamespace(netns);
    caught(() => settle(kernel, pins));
    assert.is(attached(kernel), 0);
  });
}

test("an attachment of nothing but a record goes with its namespace", () => {
  const kernel = machine();
  const missing = [{ program: "gone", reason: "it does not load" }];
  attach(kernel, plan(input(kernel, [], { missing })));
  assert.equal(collect(kernel, bpffs), { settled: [], removed: [], failed: [] });
  kernel.renewNamespace(netns);
  assert.equal(
    collect(kernel, bpffs).removed.map(({ reason }) => reason),
    ["its network namespace is gone"],
  );
  assert.equal(kernel.left(), []);
});

test.run();
