// SPDX-License-Identifier: Apache-2.0
/**
 * A chain on kinds of interfaces that not every kernel has. Debian's has them, on which `npm run test:kernels` runs this
 * file; another that lacks them says so.
 */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { liveAbove } from "./life.ts";

const ofDebian = readFileSync("/proc/version", "utf8").includes("Debian");

for (const { primary, options, outside } of [
  { primary: { type: "ipvlan", mode: "l2" }, options: ["mode", "l2"], outside: "wire0" },
  { primary: { type: "vlan", vlanId: 5 }, options: ["id", "5"], outside: "wire0.5" },
])
  test(primary.type, async () => {
    const lived = await liveAbove(primary, options, outside);
    assert.ok(lived || !ofDebian, `this kernel should have ${primary.type}`);
    if (!lived) console.log(`this kernel has no ${primary.type}: npm run test:kernels tries it on Linux 6.12`);
  });

test.run();
