// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { CatalogProgram } from "../model.ts";
import { decidingLists, deniedByManifest, deniedByNode } from "./policy.ts";

const allow = {
  "*": ["count"],
  "shop-*": ["count", "rate-*"],
  "shop-*-dev": ["*"],
  "shop-closed": [],
  "*-test": ["probe"],
  "s*-dev": ["count"],
};
const deciding: [namespace: string, ...lists: string[][]][] = [
  ["", ["count"]],
  ["default", ["count"]],
  ["shop-1", ["count", "rate-*"]],
  ["shop-1-dev", ["*"]],
  ["shop-closed", []],
  ["shop-test", ["count", "rate-*"], ["probe"]],
  ["sea-dev", ["count"]],
];
for (const [namespace, ...lists] of deciding) {
  test(`namespace "${namespace}" is decided by ${JSON.stringify(lists)}`, () => {
    assert.equal(decidingLists(allow, namespace), lists);
  });
}

test("the most specific glob decides alone, even to allow less", () => {
  assert.is(deniedByNode(allow, "shop-1", "rate-limit"), undefined);
  assert.is(deniedByNode(allow, "shop-1-dev", "anything"), undefined);
  assert.is(
    deniedByNode(allow, "shop-closed", "count"),
    'namespace "shop-closed" may not use program "count": it may use none',
  );
  assert.is(
    deniedByNode(allow, "default", "cuont"),
    'namespace "default" may not use program "cuont", did you mean "count"? it may use count',
  );
});

test("two that are equally specific must both allow", () => {
  const both = { "a*": ["x", "y"], "*z": ["y", "w"] };
  assert.is(deniedByNode(both, "az", "y"), undefined);
  assert.ok(deniedByNode(both, "az", "x"));
  assert.ok(deniedByNode(both, "az", "w"));
});

test("the order of the configuration does not matter", () => {
  const turned = Object.fromEntries(Object.entries(allow).reverse());
  for (const [namespace, ...lists] of deciding) {
    assert.equal(decidingLists(turned, namespace).sort(), [...lists].sort(), namespace);
  }
});

test("where nothing covers the namespace nothing is allowed", () => {
  assert.match(deniedByNode({ shop: ["*"] }, "default", "count") ?? "", "it may use none");
  assert.match(deniedByNode({ "?*": ["*"] }, "", "count") ?? "", "a pod without a namespace may not use");
  assert.match(deniedByNode({}, "default", "count") ?? "", "it may use none");
});

test("a manifest keeps a program for its namespaces", () => {
  const program = (namespaces: string[] | undefined) => ({ name: "count", namespaces }) as CatalogProgram;
  assert.is(deniedByManifest(program(undefined), ""), undefined);
  assert.is(deniedByManifest(program(["shop", "test-*"]), "test-1"), undefined);
  assert.is(
    deniedByManifest(program(["shop", "test-*"]), "default"),
    'namespace "default" may not use program "count": its manifest keeps it for shop, test-*',
  );
  assert.ok(deniedByManifest(program(["shop"]), ""));
  assert.ok(deniedByManifest(program([]), "shop"));
});

test.run();
