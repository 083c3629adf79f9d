// SPDX-License-Identifier: Apache-2.0
/** The table of refusals, asked of the executable; and VERSION, which refuses nobody. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { changed, goodEnvironment, refusals } from "../../plugin/cni/refusals.table.ts";
import { call, failure, result, shell } from "./executable.ts";

for (const { name, env, stdin, code, says, cniVersion } of refusals)
  test(`refuses: ${name}`, () => {
    const answer = call({ ...goodEnvironment, ...env }, typeof stdin === "string" ? stdin : changed(stdin));
    const error = failure(answer);
    assert.match(error.msg, says);
    assert.is(error.code, code);
    assert.is(error.cniVersion, cniVersion ?? "1.1.0");
    assert.is(answer.stderr, "");
  });

test("VERSION, with and without anything on stdin", () => {
  const supportedVersions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
  const version = { cniVersion: "1.1.0", supportedVersions };
  assert.equal(result(call({ CNI_COMMAND: "VERSION" }, '{"cniVersion":"1.0.0"}')), version);
  assert.equal(result(call({ CNI_COMMAND: "VERSION" }, "")), version);
});

test("without CNI_COMMAND it says what it is", () => {
  for (const env of [{}, { CNI_COMMAND: "" }]) {
    const { status, stdout, stderr } = shell('"$0" </dev/null', env);
    assert.is(status, 0, stderr);
    assert.match(stdout + stderr, /Remora/);
  }
});

test.run();
