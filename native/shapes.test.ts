// SPDX-License-Identifier: Apache-2.0
/** Programs that were not written for Remora, unmodified, in one chain. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../e2e/lib/scratch.ts";
import { Chain, fixture, kernel, type Member, u32, verdict } from "./chain.ts";

type World = ReturnType<typeof scratch>;

function shapes(world: World): Member[] {
  return [
    { object: fixture(world, "shape-l3af"), entry: "l3af_dialect" }, // OK
    { object: fixture(world, "shape-inner"), entry: "parse" }, // UNSPEC, by an inner program
    { object: fixture(world, "shape-functions"), entry: "functions" }, // PIPE
    { object: fixture(world, "shape-tcx"), entry: "written_for_tcx" }, // NEXT
    { object: fixture(world, "shape-plain", ["-g0"]), entry: "plain" }, // OK
    { object: fixture(world, "shape-lock"), entry: "locks" }, // OK
    { object: fixture(world, "shape-mixed"), entry: "monitor" }, // UNSPEC
  ];
}

test("seven shapes run in one chain, in order, each once", () => {
  using world = scratch();
  using chain = new Chain(shapes(world));
  assert.equal(chain.run(), { verdict: -1, mark: 1234567 });
  for (const position of chain.stages.keys()) assert.equal(chain.counted(position).endings, {});
});

test("the same shapes backwards, with a program that drops at the end", () => {
  using world = scratch();
  const drop: Member = {
    object: fixture(world, "verdict"),
    entry: "give_verdict",
    parameters: { id: u32(8), verdict: u32(verdict.shot) },
  };
  using chain = new Chain([...shapes(world).reverse(), drop]);
  assert.equal(chain.run(), { verdict: verdict.shot, mark: 76543218 });
  assert.equal(chain.counted(7).endings, { shot: 1 });
});

test("each shape may be first, last and alone", () => {
  using world = scratch();
  for (const shape of shapes(world)) {
    using alone = new Chain([shape]);
    assert.is(alone.run().verdict, -1, shape.entry);
    using twice = new Chain([shape, shape]);
    assert.is(twice.run().verdict, -1, shape.entry);
    assert.ok(twice.run().mark > 10, shape.entry);
  }
});

test("an entry that tail-calls inside itself never ends the chain by mistake", () => {
  // The fall-through of its tail call is a constant SHOT. Were it verified as a static function, Linux up to 6.12 would
  // take that for its only verdict. The verdict of the inner program has to decide.
  using world = scratch();
  const inner: Member = { object: fixture(world, "shape-inner"), entry: "parse" };
  const last: Member = { object: fixture(world, "verdict"), entry: "give_verdict", parameters: { id: u32(9) } };
  using chain = new Chain([inner, last]);
  assert.equal(chain.run(), { verdict: -1, mark: 29 });
  assert.equal(chain.counted(0).endings, {});
  using ends = new Chain([{ ...inner, proceedOn: [verdict.shot] }, last]);
  assert.equal(ends.run(), { verdict: -1, mark: 2 }, "UNSPEC of the inner program, not SHOT of the fall-through");
  assert.equal(ends.counted(0).endings, { unspec: 1 });
});

test("only what the entry needs is loaded; maps that asked for a pin are reported and left unpinned", () => {
  using world = scratch();
  using chain = new Chain(shapes(world));
  const [l3af, inner, , , , , mixed] = chain.stages;
  assert.equal(
    l3af?.maps.map(({ name, type, pinned, internal }) => ({ name, type, pinned, internal })),
    [{ name: "tc_next_prog_array", type: "prog_array", pinned: true, internal: false }],
  );
  assert.equal(mixed?.maps, []);
  const steps = inner?.maps.find((map) => map.name === "steps");
  assert.ok(steps && !steps.pinned);
  const slot = kernel.lookupMap(steps?.fd as number, u32(1));
  assert.ok(slot !== undefined && slot.readUInt32LE() > 0, "the inner program stands in its slot");
});

test.run();
