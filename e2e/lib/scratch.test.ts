// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "./scratch.ts";

test("two namespaces of a scratch world reach each other, and everything is gone afterwards", () => {
  let dir = "";
  let path = "";
  {
    using world = scratch();
    dir = world.dir;
    const [a, b] = [world.namespace(), world.namespace()];
    path = a.path;
    world.veth(
      { namespace: a, ifname: "eth0", addresses: ["10.9.0.1/24"] },
      { namespace: b, ifname: "eth0", addresses: ["10.9.0.2/24"] },
    );
    assert.match(a.exec("ping", "-c", "1", "-W", "2", "10.9.0.2"), /1 received/);
    const bpffs = world.bpffs();
    assert.match(readFileSync("/proc/self/mountinfo", "utf8"), new RegExp(`${bpffs} .* bpf `));
  }
  assert.not(existsSync(dir));
  assert.not(existsSync(path));
});

test("what a killed run left is swept by the next", () => {
  const program = `
    import { scratch } from ${JSON.stringify(import.meta.resolve("./scratch.ts"))};
    const world = scratch();
    console.log(world.dir, world.bpffs(), world.namespace().path);
    process.kill(process.pid, "SIGKILL");
  `;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8" });
  assert.is(child.signal, "SIGKILL");
  const left = child.stdout.trim().split(" ");
  assert.is(left.length, 3);
  for (const path of left) assert.ok(existsSync(path));
  run(
    process.execPath,
    "--input-type=module",
    "-e",
    `
    import { scratch } from ${JSON.stringify(import.meta.resolve("./scratch.ts"))};
    using world = scratch();
  `,
  );
  for (const path of left) assert.not(existsSync(path), path);
});

test("a failing command throws with what it said", () => {
  assert.throws(() => run("ip", "link", "show", "dev", "nothere"), /nothere/);
});

test.run();
