// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { globMatches } from "./glob.ts";

const table: [glob: string, name: string, matches: boolean][] = [
  ["*", "", true],
  ["*", "shop", true],
  ["shop", "shop", true],
  ["shop", "shop-2", false],
  ["shop-*", "shop-2", true],
  ["shop-*", "shop", false],
  ["*-dev", "shop-dev", true],
  ["*-dev", "-dev", true],
  ["a*b*c", "a1b2c", true],
  ["a*b*c", "acb", false],
  ["ab*ba", "aba", false],
  ["ab*ba", "abba", true],
  ["a**b", "ab", true],
  ["*a*", "bab", true],
  [".", "a", false],
  ["", "", true],
];
for (const [glob, name, matches] of table) {
  test(`"${glob}" ${matches ? "covers" : "does not cover"} "${name}"`, () => {
    assert.is(globMatches(glob, name), matches);
  });
}

test("a glob full of stars ends", () => {
  assert.is(globMatches(`${"*a".repeat(60)}*b`, "a".repeat(253)), false);
});

test.run();
