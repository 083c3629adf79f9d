// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { KernelError } from "../kernel/port.ts";
import { attach } from "./attach.ts";
import { collect, collectNetwork } from "./collect.ts";
import { bpffs, id, input, machine, select } from "./fixture.ts";
import { claim, Lock, lock, lockOrGoOn, tryLock } from "./lock.ts";
import { pinsOf } from "./pins.ts";
import { plan } from "./plan.ts";

const pins = pinsOf(bpffs, id);

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing failed");
}
const soon = (act: () => void): void => void setTimeout(act, 5);
const add = (kernel: FakeKernel): void => attach(kernel, plan(input(kernel, [select(kernel, "p")])));

test("one at a time; who waits gets it when it is free", async () => {
  const kernel = machine();
  assert.is(tryLock(kernel, pins), "gone");
  const first = await claim(kernel, pins, 0);
  assert.ok(first.held());
  assert.is(tryLock(kernel, pins), "busy");
  soon(() => first[Symbol.dispose]());
  const second = await lock(kernel, pins, 60_000);
  assert.instance(second, Lock);
  if (second instanceof Lock) second[Symbol.dispose]();
  assert.is(kernel.openFds(), 0);
});

test("at the deadline: ADD is told to try again later, DEL goes on without", async () => {
  const kernel = machine();
  using _ = await claim(kernel, pins, 0);
  const error = await failure(claim(kernel, pins, 0));
  assert.instance(error, RemoraError);
  assert.is((error as RemoraError).code, code.tryAgainLater);
  assert.is(await lock(kernel, pins, 0), "busy");
  assert.is(await lockOrGoOn(kernel, pins, 0), null);
});

test("whose folder is removed while he waits starts over", async () => {
  const kernel = machine();
  const first = await claim(kernel, pins, 0);
  soon(() => {
    kernel.removeDirectory(pins.directory);
    kernel.removeDirectory(pins.network);
    first[Symbol.dispose]();
  });
  using second = await claim(kernel, pins, 60_000);
  assert.ok(second.held());
  assert.not(first === second);
});

test("a folder that changes hands between opening and locking is not taken for the other", async () => {
  const kernel = machine();
  add(kernel);
  let done = false;
  kernel.interfere = (operation) => {
    if (done || !operation.startsWith("names")) return;
    done = true;
    for (const path of kernel.files().reverse()) {
      if (!path.startsWith(pins.directory)) continue;
      removeAny(kernel, path);
    }
    kernel.makeDirectory(pins.directory);
  };
  const got = await lock(kernel, pins, 60_000);
  assert.ok(got instanceof Lock && got.held());
  if (got instanceof Lock) got[Symbol.dispose]();
  assert.is(kernel.openFds(), 0);
});

function removeAny(kernel: FakeKernel, path: string): void {
  try {
    kernel.removePin(path);
  } catch {
    kernel.removeDirectory(path);
  }
}

test("a claim that fails leaves no folder and no descriptor", async () => {
  for (let nth = 1; nth <= 5; nth++) {
    const kernel = machine();
    kernel.failAt(nth, "ENOMEM");
    assert.instance(await failure(claim(kernel, pins, 0)), KernelError);
    kernel.calm();
    assert.equal(kernel.left(), [], `operation ${nth}`);
  }
});

test("gc leaves alone what is locked; GC, told by the runtime, does not", async () => {
  const kernel = machine();
  add(kernel);
  kernel.removePin(pins.link("ingress"));
  kernel.removePin(pins.link("egress"));
  using held = await claim(kernel, pins, 0);
  const options = { now: kernel.clock + 10 ** 9 };
  assert.equal(collect(kernel, bpffs, options).removed, []);
  const { removed } = await collectNetwork(kernel, bpffs, id.network, []);
  assert.is(removed.length, 1);
  assert.not(held.held());
});

test.run();
