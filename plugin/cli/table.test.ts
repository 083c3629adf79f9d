// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { table } from "./table.ts";
import { elide, type Page, pageFor, printable, shortId, wrap } from "./terminal.ts";

const page = (width: number): Page => ({ width, paint: (text) => text });

test("columns are as wide as their widest cell, numbers stand right", () => {
  const lines = table(
    page(100),
    [{ title: "name" }, { title: "packets", align: "right" }],
    [{ cells: ["a", 7] }, { cells: ["longer", 1234567890] }],
  );
  assert.equal(lines, ["name       packets", "a                7", "longer  1234567890"]);
});

test("what is too wide is wrapped or loses its middle, numbers never", () => {
  const lines = table(
    page(60),
    [
      { title: "id", fit: "middle" },
      { title: "bytes", align: "right" },
      { title: "text", fit: "wrap" },
    ],
    [
      {
        cells: [
          "0123456789abcdef0123456789abcdef",
          12345678901,
          "some words that do not fit into what is left of the line",
        ],
      },
    ],
  );
  assert.equal(lines, [
    "id                            bytes  text",
    "0123456789...789abcdef  12345678901  some words that do not",
    "                                     fit into what is left",
    "                                     of the line",
  ]);
  for (const line of lines) assert.ok(line.length <= 60, line);
});

test("an optional column that is empty is left out, a remark stands below its row", () => {
  const lines = table(
    page(40),
    [{ title: "a" }, { title: "b" }, { title: "c", optional: true }],
    [{ cells: ["x", "y", ""], below: ["a remark that is longer than one line of it", "and another"] }],
  );
  assert.equal(lines, ["a  b", "x  y", "     a remark that is longer than one", "     line of it", "     and another"]);
});

test("a name as wide as the page leaves its remark a narrow column", () => {
  const name = "n".repeat(50);
  const lines = table(
    page(40),
    [{ title: "a" }, { title: "b" }],
    [{ cells: [name, "y"], below: ["some words on it"] }],
  );
  assert.equal(lines.slice(1), [`${name}  y`, ...["some", "words on", "it"].map((line) => " ".repeat(54) + line)]);
  assert.equal(wrap("abc", -3), ["a", "b", "c"]);
});

test("colours stay outside of the padding, and control characters of others become text", () => {
  const painted: Page = { width: 80, paint: (text, tone) => (tone === "bad" ? `<${text}>` : text) };
  const lines = table(painted, [{ title: "a" }, { title: "b" }], [{ cells: [{ text: "x\x1b[2J", tone: "bad" }, "y"] }]);
  assert.equal(lines, ["a         b", "<x\\x1b[2J>  y"]);
});

test("printable spells out what a terminal would obey or hide", () => {
  assert.is(printable("ä\n\x9b\u202e\u200b"), "ä\\x0a\\x9b\\u{202e}\\u{200b}");
});

test("wrap cuts a word that is longer than a line", () => {
  assert.equal(wrap("ab abcdefgh c", 5), ["ab", "abcde", "fgh c"]);
  assert.equal(wrap("", 5), [""]);
});

test("elide keeps both ends", () => {
  assert.is(elide("/run/netns/cni-1234", 12), "/run/...1234");
  assert.is(elide("short", 12), "short");
});

test("short ids are twelve characters", () => {
  assert.is(shortId("3f2a9c01bd7e44aa90"), "3f2a9c01bd7e");
  assert.is(shortId("by-hand"), "by-hand");
});

test("colours: on a terminal only, and not where NO_COLOR is set", () => {
  const io = { stdout() {}, stderr() {}, isTerminal: true, columns: 120, env: {} };
  assert.is(pageFor(io).paint("x", "bad"), "\x1b[31mx\x1b[0m");
  assert.is(pageFor({ ...io, env: { NO_COLOR: "1" } }).paint("x", "bad"), "x");
  assert.is(pageFor({ ...io, env: { NO_COLOR: "" } }).paint("x", "bad"), "\x1b[31mx\x1b[0m");
  assert.is(pageFor({ ...io, isTerminal: false }).paint("x", "bad"), "x");
});

test("the width is the terminal's, and 100 where there is none", () => {
  const io = { stdout() {}, stderr() {}, isTerminal: true, columns: 120 };
  assert.is(pageFor(io).width, 120);
  assert.is(pageFor({ ...io, columns: 0 }).width, 100);
  assert.is(pageFor({ ...io, columns: 30 }).width, 40);
  assert.is(pageFor({ ...io, isTerminal: false }).width, 100);
});

test.run();
