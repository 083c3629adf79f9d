// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { renderCollected } from "./gc.ts";
import type { Page } from "./terminal.ts";

const page: Page = { width: 100, paint: (text) => text };
const line = {
  network: "pods",
  containerId: "3f2a9c01bd7e44aa90c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6f7081",
  ifname: "eth0",
  reason: "its interface is gone",
};

test("what was removed, and what could not be", () => {
  const failed = [
    { ...line, ifname: "net1", reason: "removePin /sys/fs/bpf/remora/pods/x/record: Operation not permitted" },
  ];
  assert.is(
    renderCollected({ dryRun: false, removed: [line], settled: [], failed }, page),
    `         container     interface  network  reason
removed  3f2a9c01bd7e  eth0       pods     its interface is gone
failed   3f2a9c01bd7e  net1       pods     removePin /sys/fs/bpf/remora/pods/x/record: Operation not
                                           permitted
`,
  );
});

test("a dry run says so", () => {
  assert.match(
    renderCollected({ dryRun: true, removed: [line], settled: [], failed: [] }, page),
    /^would remove {2}3f2a/m,
  );
});

test("nothing to do", () => {
  assert.is(
    renderCollected({ dryRun: false, removed: [], settled: [], failed: [] }, page),
    "Nothing to remove: all that is attached is in use.\n",
  );
});

test.run();
