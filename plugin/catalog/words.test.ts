// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { didYouMean, listed, quote } from "./words.ts";

test("a slip finds the name that was meant, a stranger does not", () => {
  const names = ["rate", "burst", "rate-limit"];
  assert.is(didYouMean("raet", names), ', did you mean "rate"?');
  assert.is(didYouMean("Burts", names), ', did you mean "burst"?');
  assert.is(didYouMean("rate_limit", names), ', did you mean "rate-limit"?');
  assert.is(didYouMean("colour", names), "");
  assert.is(didYouMean("x".repeat(100_000), names), "");
});

test("long values are shortened, newlines escaped", () => {
  assert.is(quote("10Mbit"), '"10Mbit"');
  assert.is(quote("a\nb"), '"a\\nb"');
  const long = quote(`${"a".repeat(1000)}end`);
  assert.ok(long.length < 70 && long.endsWith('end"') && long.includes("..."), long);
});

test("lists say how many there are", () => {
  assert.is(listed([]), "none");
  assert.is(listed(["a", "b"]), "a, b");
  assert.is(listed(["a", "b", "c"], 2), "a, b, ... (3 in all)");
});

test.run();
