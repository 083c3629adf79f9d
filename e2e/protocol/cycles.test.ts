// SPDX-License-Identifier: Apache-2.0
/**
 * ADD and DEL over and over: nothing may pile up. 100 cycles; `REMORA_CYCLES=1000` for as many as one likes. Every BPF
 * object is counted by its id before and after, every pin, namespace and mount by name, and every file that could be
 * written on the way.
 */
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { findLeftovers, takeInventory } from "../../scripts/testing/leftovers.ts";
import { scratch } from "../lib/scratch.ts";
import { executable, result, silence } from "./executable.ts";
import { pod } from "./pod.ts";

const cycles = Number(process.env.REMORA_CYCLES ?? 100);
const root = resolve(import.meta.dirname, "../..");
const chain = ["count", "acl", "count"].map((program) => ({ program }));

test(`${cycles} cycles of ADD and DEL leave nothing behind`, async () => {
  using world = scratch();
  const place = pod(world);
  // The first call writes the addon beside the runtime, once.
  silence(place.call("STATUS"));
  const files = (): string[] =>
    [world.dir, join(dirname(executable), "runtime"), "/run/remora", "/var/lib/remora"]
      .filter((folder) => existsSync(folder))
      .flatMap((folder) =>
        readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
      );
  const before = takeInventory(root);
  const filesBefore = files();
  for (let cycle = 0; cycle < cycles; cycle++) {
    const id = { CNI_CONTAINERID: `cycle-${cycle}` };
    result(place.call("ADD", { chain }, id));
    if (cycle === 0) assert.not.equal(takeInventory(root), before, "the inventory does not see a chain");
    silence(place.call("DEL", { chain }, id));
  }
  assert.equal(await findLeftovers(root, before), []);
  assert.equal(files(), filesBefore);
});

test.run();
