// SPDX-License-Identifier: Apache-2.0
/** The README's lists that mirror the code. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code } from "../plugin/errors.ts";

const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");

test("the README lists every error code, and no other", () => {
  const section = readme.slice(readme.indexOf("## Errors"), readme.indexOf("## The house"));
  const listed = [...section.matchAll(/^\| (\d+) \|/gm)].map(([, number]) => Number(number));
  assert.equal(listed, Object.values(code));
});

test("the README lists every command", () => {
  const source = readFileSync(join(import.meta.dirname, "../plugin/cli/run.ts"), "utf8");
  const commands = [...source.matchAll(/import\("\.\/(\w+)\.ts"\)/g)].map(([, name]) => name);
  assert.ok(commands.length > 4);
  for (const name of commands) if (name !== "version") assert.match(readme, new RegExp(`^\\| \`${name}\\b`, "m"));
});

test.run();
