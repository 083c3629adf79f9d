// SPDX-License-Identifier: Apache-2.0
/** The addon in a thread that is terminated while it is called: the process goes on. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

for (const call of ["throws", "returns", "lists"])
  test(`a thread terminated within a call that ${call}: the process goes on`, () => {
    const { stdout, stderr, signal } = spawnSync(process.execPath, [join(import.meta.dirname, "terminated.ts"), call], {
      encoding: "utf8",
      timeout: 60_000,
    });
    assert.is(stdout, "still here\n", `${signal}: ${stderr}`);
  });

test.run();
