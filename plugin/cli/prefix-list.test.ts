// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { prefixKey } from "../catalog/address.ts";
import { code, RemoraError } from "../errors.ts";
import { FakeKernel } from "../kernel/fake.ts";
import { applyDifference, difference, type Prefixes, prefixesIn, prefixesOf, readPrefixes } from "./prefix-list.ts";

const texts = (prefixes: Iterable<Buffer>) => [...prefixes].map((key) => prefixKey.decode(key));
const list = (...prefixes: string[]) => prefixesOf("--add", prefixes);

function refused(act: () => unknown): RemoraError {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError);
    assert.is((error as RemoraError).code, code.badParameter);
    return error as RemoraError;
  }
  throw new Error("was not refused");
}

/** A map with room for `capacity` prefixes that holds these. */
function mapWith(prefixes: string[], capacity: number) {
  const kernel = new FakeKernel();
  const map = kernel.createMap({ type: "hash", name: "list", keySize: 24, valueSize: 8, maxEntries: capacity });
  for (const key of list(...prefixes).values()) kernel.updateMap(map, key, Buffer.alloc(8, 1));
  return { kernel, map };
}

test("a file: a prefix a line, comments, empty lines, any line end, each prefix once", () => {
  const text = "\ufeff# deny\r\n10.0.0.0/8\r\n\r\n  2001:DB8::/32  # why\n192.0.2.7 ; SBL9\n192.0.2.7/32\n;\n0.0.0.0/0";
  assert.equal(texts(readPrefixes("f", text).values()), ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "0.0.0.0/0"]);
  assert.is(readPrefixes("f", "").size, 0);
});

test("a key: bits that count with the family before them, the family, the address", () => {
  const key = (text: string) => prefixKey.encode(text).toString("hex");
  assert.is(key("10.0.0.0/8"), `88000000${"04000000"}${"00".repeat(10)}ffff0a000000`);
  assert.is(key("0.0.0.0/0"), `80000000${"04000000"}${"00".repeat(10)}ffff00000000`);
  assert.is(key("::/0"), `20000000${"06000000"}${"00".repeat(16)}`);
  assert.is(key("2001:db8::1"), `a0000000${"06000000"}20010db8${"00".repeat(11)}01`);
  for (const text of ["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "::/0", "2001:db8::/33", "2001:db8::1"])
    assert.is(prefixKey.decode(prefixKey.encode(text)), text);
});

test("bad lines: each by its number and value, with what would be right; the first ten", () => {
  const error = refused(() => readPrefixes("/etc/deny.txt", "10.0.0.0/8\n10.0.0.1/8\n10.0.0.0/33\nany\n1.2.3\n"));
  assert.match(error.message, '/etc/deny.txt:2: "10.0.0.1/8" has bits set past /8; the network is 10.0.0.0/8');
  assert.match(error.message, "nothing was changed");
  assert.equal(
    error.details.split("\n").map((line) => line.split(" ")[0]),
    ["Other", "/etc/deny.txt:3:", "/etc/deny.txt:4:", "/etc/deny.txt:5:"],
  );
  const many = refused(() => readPrefixes("f", "x\n".repeat(25)));
  assert.match(many.details, /f:10: .*\nand 15 more$/);
});

test("a difference: what is new, what goes, and what both have in neither", () => {
  const current = list("10.0.0.0/8", "10.0.0.0/16", "::/0");
  const wanted = list("::/0", "10.0.0.0/16", "11.0.0.0/8");
  const { add, remove, before, after } = difference(current, () => wanted, 4);
  assert.equal([texts(add), texts(remove), before, after], [["11.0.0.0/8"], ["10.0.0.0/8"], 3, 3]);
  assert.match(
    refused(() => difference(current, () => wanted, 2)).message,
    "3 prefixes are too many: the map takes 2; nothing was changed",
  );
});

/** Carries out a change; returns how the list looked after each step. */
function steps(before: string[], after: string[], capacity: number): (string | number | boolean)[][] {
  const { kernel, map } = mapWith(before, capacity);
  const seen: (string | number | boolean)[][] = [];
  let looking = false;
  kernel.interfere = (operation) => {
    if (looking || !/^(updateMap|deleteFromMap)/.test(operation)) return;
    looking = true;
    seen.push(texts(prefixesIn(kernel, map).values()));
    looking = false;
  };
  applyDifference(
    kernel,
    map,
    difference(prefixesIn(kernel, map), () => list(...after), capacity),
  );
  kernel.interfere = undefined;
  seen.push(texts(prefixesIn(kernel, map).values()));
  for (const key of prefixesIn(kernel, map).values()) {
    const old = before.includes(String(prefixKey.decode(key)));
    assert.equal(kernel.lookupMap(map, key), Buffer.alloc(8, old ? 1 : 0), "what stays goes on counting");
  }
  assert.equal(kernel.mistakes, []);
  return seen;
}

test("what is new comes first, then the old goes, and what both have is there all the time", () => {
  assert.equal(steps(["10.0.0.0/8", "::/0"], ["::/0", "11.0.0.0/8", "12.0.0.0/8"], 9), [
    ["10.0.0.0/8", "::/0"],
    ["10.0.0.0/8", "::/0", "11.0.0.0/8"],
    ["10.0.0.0/8", "::/0", "11.0.0.0/8", "12.0.0.0/8"],
    ["::/0", "11.0.0.0/8", "12.0.0.0/8"],
  ]);
});

test("where both together are too many, as much of the old makes room as must", () => {
  assert.equal(steps(["10.0.0.0/8", "11.0.0.0/8", "::/0"], ["::/0", "12.0.0.0/8", "13.0.0.0/8"], 4), [
    ["10.0.0.0/8", "11.0.0.0/8", "::/0"],
    ["11.0.0.0/8", "::/0"],
    ["11.0.0.0/8", "::/0", "12.0.0.0/8"],
    ["11.0.0.0/8", "::/0", "12.0.0.0/8", "13.0.0.0/8"],
    ["::/0", "12.0.0.0/8", "13.0.0.0/8"],
  ]);
});

test("killed at any step: a list between the two, which the same change completes", () => {
  const [old, wanted] = [
    ["10.0.0.0/8", "11.0.0.0/8", "::/0"],
    ["::/0", "12.0.0.0/8", "13.0.0.0/8"],
  ];
  const change = (current: Prefixes) => difference(current, () => list(...wanted), 4);
  for (let nth = 1; nth <= 4; nth++) {
    const { kernel, map } = mapWith(old, 4);
    const pin = "/sys/fs/bpf/list";
    kernel.pin(map, pin);
    const todo = change(prefixesIn(kernel, map));
    kernel.crashAt(nth + 1); // after mapInfo
    assert.throws(() => applyDifference(kernel, map, todo));
    kernel.restart();
    const { fd } = kernel.openPin(pin);
    const left = texts(prefixesIn(kernel, fd).values());
    assert.ok(left.includes("::/0"));
    assert.ok(left.every((text) => [...old, ...wanted].includes(String(text))));
    applyDifference(kernel, fd, change(prefixesIn(kernel, fd)));
    assert.equal(texts(prefixesIn(kernel, fd).values()).sort(), [...wanted].sort());
  }
});

test.run();
