// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import type { AttachmentStatus } from "../model.ts";
import { UsageError } from "./command.ts";
import { select, selectToChange } from "./selector.ts";

function attachment(containerId: string, pod?: string, ifname = "eth0"): AttachmentStatus {
  const [namespace = "", name = ""] = pod?.split("/") ?? [];
  return {
    containerId,
    netns: "/run/netns/x",
    ifname,
    pod: pod === undefined ? null : { namespace, name, uid: "" },
    hook: "tcx",
    generation: 1,
    degraded: [],
    ingress: [],
    egress: [],
  };
}

const web = attachment("aa11", "default/web");
const webSecond = attachment("aa11", "default/web", "net1");
const otherWeb = attachment("ab22", "prod/web");
const db = attachment("b333", "prod/db");
const bare = attachment("c444");
const all = [web, webSecond, otherWeb, db, bare];

function failure(selector: string, attachments = all): RemoraError {
  try {
    select(attachments, selector);
  } catch (error) {
    assert.instance(error, RemoraError);
    return error as RemoraError;
  }
  throw new Error("it found something");
}

for (const [selector, found] of [
  ["db", [db]],
  ["prod/web", [otherWeb]],
  ["default/web", [web, webSecond]],
  ["aa11", [web, webSecond]],
  ["aa", [web, webSecond]],
  ["c", [bare]],
] as const) {
  test(`${selector} names one pod`, () => {
    assert.equal(select(all, selector), found);
  });
}

test("a whole name goes before the beginning of another's id", () => {
  const named = attachment("d555", "default/aa");
  assert.equal(select([...all, named], "aa"), [named]);
});

test("a sandbox that was made again is the same pod", () => {
  const again = attachment("e666", "prod/db");
  assert.equal(select([...all, again], "db"), [db, again]);
});

test("a name in two namespaces is an error that lists both", () => {
  const error = failure("web");
  assert.is(error.message, '"web" names 2 pods; say namespace/name or more of the container id');
  assert.is(error.details, "  default/web  container aa11\n  prod/web  container ab22");
});

test("a beginning that two ids share is an error that lists both", () => {
  assert.match(failure("a").details, /default\/web.*\n.*prod\/web/);
});

test("where something is changed, a beginning must be long enough to be meant", () => {
  const one = (selector: string) => selectToChange(all, selector);
  const long = attachment("beef55aa", "prod/long");
  assert.equal(selectToChange([...all, long], "beef"), [long]);
  // Whole names and ids may be as short as they are.
  assert.equal(one("db"), [db]);
  assert.equal(one("c444"), [bare]);
  const named = attachment("f0", "prod/x");
  assert.equal(selectToChange([...all, named], "f0"), [named]);
  for (const selector of ["b", "be", "bee"]) {
    try {
      selectToChange([web, long], selector);
    } catch (error) {
      const { code: found, message, details } = error as RemoraError;
      assert.is(found, code.unknownContainer);
      assert.is(
        message,
        `no pod is called "${selector}", and what changes a chain takes at least 4 characters of a container id; it is the beginning of:`,
      );
      assert.is(details, "  prod/long  container beef55aa");
      continue;
    }
    throw new Error(`${selector} was taken`);
  }
  assert.throws(() => one("a"), /"a" names 2 pods/);
  assert.throws(() => one("zz"), /no pod or container "zz"; attached are/);
});

test("a name that nothing has is an error that lists what there is", () => {
  const error = failure("nobody");
  assert.is(error.message, 'no pod or container "nobody"; attached are:');
  assert.is(error.details.split("\n").length, 4);
  assert.match(error.details, "  container c444");
});

test("an empty name is wrong usage, and not whoever is there", () => {
  for (const there of [all, [db], []])
    assert.throws(
      () => select(there, ""),
      (error: unknown) => error instanceof UsageError,
    );
});

test("on an empty node the error says so", () => {
  assert.is(failure("web", []).message, 'no pod or container "web": nothing is attached on this node');
});

test.run();
