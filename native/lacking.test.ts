// SPDX-License-Identifier: Apache-2.0
/**
 * A process that lacks something: descriptors, /sys. What cannot be looked at is an error, and never taken for gone. (DEL, gc and
 * a change remove what they take for gone, and packets that still meet it would be dropped.)
 */
import { execFileSync, spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../e2e/lib/scratch.ts";
import { kernel } from "./chain.ts";

const native = JSON.stringify(join(import.meta.dirname, "../plugin/kernel/native.ts"));

/** What each operation comes to in a process that has `left` descriptors left when it begins: its value, or its errno. */
function withDescriptors(left: number, operations: [name: string, ...args: unknown[]][]): unknown[] {
  const script = `
    import { closeSync, openSync } from "node:fs";
    import { createNativeKernel } from ${native};
    const kernel = createNativeKernel();
    const outcome = ([name, ...args]) => {
      const open = [];
      try {
        for (;;) open.push(openSync("/dev/null"));
      } catch {}
      for (let i = 0; i < ${left}; i++) closeSync(open.pop());
      try {
        return kernel[name](...args);
      } catch (error) {
        return error.code;
      } finally {
        open.forEach((fd) => closeSync(fd));
      }
    };
    const plain = (_, value) => (typeof value === "bigint" ? String(value) : value);
    const outcomes = JSON.parse(process.argv[1]).map(outcome);
    process.stdout.write(JSON.stringify(outcomes, plain));
  `;
  const limited = ["--nofile=64:64", process.execPath, "--input-type=module", "--eval", script];
  return JSON.parse(execFileSync("prlimit", [...limited, JSON.stringify(operations)], { encoding: "utf8" }));
}

test("a namespace or device that cannot be looked at for want of a descriptor is not taken for another, or gone", () => {
  using world = scratch();
  const netns = world.namespace().path;
  const place = { netns, ifindex: 1, direction: "ingress" };
  const operations: Parameters<typeof withDescriptors>[1] = [
    ["namespaceIdentity", netns],
    ["findInterface", netns, "lo"],
    ["interfaceAddresses", netns, "lo"],
    ["findPeer", netns, "lo"],
    ["listFilters", place],
    ["hasQdisc", place],
  ];
  for (const left of [0, 1])
    assert.equal(
      withDescriptors(left, operations),
      operations.map(() => "EMFILE"),
      `${left} left`,
    );

  const { dev, ino, cookie } = kernel.namespaceIdentity(netns) ?? {};
  const [identity, , , , filters] = withDescriptors(10, operations);
  assert.equal(
    identity,
    { dev: String(dev), ino: String(ino), cookie: String(cookie) },
    "with enough of them they succeed",
  );
  assert.equal(filters, []);
});

test("without /sys, values of each CPU are not read for a reason that is told, and libbpf says nothing by itself", () => {
  const script = `
    import { createNativeKernel } from ${native};
    const kernel = createNativeKernel();
    const map = kernel.createMap({ type: "percpu_array", name: "x", keySize: 4, valueSize: 8, maxEntries: 1 });
    for (const read of [() => kernel.lookupMap(map, Buffer.alloc(4)), () => kernel.mapEntries(map, 1)])
      try {
        read();
      } catch (error) {
        console.log(error.code, error.message);
      }
  `;
  const without = ["--mount", "sh", "-c", 'umount -l /sys && exec "$@"', "sh"];
  const node = [process.execPath, "--input-type=module", "--eval", script];
  const { stdout, stderr } = spawnSync("unshare", [...without, ...node], { encoding: "utf8" });
  assert.is(stderr, "");
  const lines = stdout.trimEnd().split("\n");
  assert.is(lines.length, 2);
  for (const line of lines) assert.match(line, /^ENOENT .*(?:was|were) not read: .*cpu\/possible.*: No such file/);
});

test.run();
