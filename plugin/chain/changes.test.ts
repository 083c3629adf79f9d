// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attach } from "./attach.ts";
import { changesBetween } from "./changes.ts";
import { bpffs, id, input, machine, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { plan } from "./plan.ts";
import { readRecord } from "./record.ts";

/** `a b+7 c` as a chain of programs, of which b has the parameter 7: what differs, in words. */
function between(before: string, after: string): string[] {
  const kernel = machine();
  const asked = (text: string, generation: number) =>
    plan(
      input(
        kernel,
        text
          .split(" ")
          .filter(Boolean)
          .map((word) => {
            const [name = "", rate] = word.split("+");
            return select(kernel, name, {
              parameters: ["rate"],
              directions: ["ingress"],
              select: { shown: rate === undefined ? {} : { rate } },
            });
          }),
        { generation },
      ),
    );
  attach(kernel, asked(before, 1));
  const record = readRecord(kernel, pinsOf(bpffs, id));
  if (!record) throw new Error("no record");
  return changesBetween(record, asked(after, 2)).map(
    ({ program, change, from, to, details }) =>
      `${program} ${change} ${from ?? "-"}>${to ?? "-"}${details.length > 0 ? `: ${details.join(", ")}` : ""}`,
  );
}

for (const [before, after, ...expected] of [
  ["a b", "a b"],
  ["a", "a b", "b added ->1: version 1.0"],
  ["a", "b+7 a", "b added ->0: version 1.0, rate 7"],
  ["a b c", "a c", "b removed 1>-"],
  ["a b c d", "d a b c", "d moved 3>0"],
  ["a b c d", "b c d a", "a moved 0>3"],
  ["a+1", "a+2", "a changed 0>0: rate 1 -> 2"],
  ["a+1", "a", "a changed 0>0: rate 1 -> default"],
  ["a b+1", "b+2 c", "b changed 1>0: rate 1 -> 2", "c added ->1: version 1.0", "a removed 0>-"],
  ["a+1 a+5", "a+5", "a removed 0>-"],
  ["a+1 a+5", "a+1 a+7", "a changed 1>1: rate 5 -> 7"],
  ["a+1", "a+1 a+1", "a added ->1: version 1.0, rate 1"],
] as const)
  test(`from "${before}" to "${after}"`, () => {
    assert.equal(between(before, after), expected);
  });

test.run();
