// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { RemoraError } from "../errors.ts";
import { FakeKernel, type ObjectSketch } from "../kernel/fake.ts";
import type { ObjectInfo } from "../kernel/port.ts";
import { inspect, type ObjectView, renderObject } from "./inspect.ts";
import type { Page } from "./terminal.ts";

const page: Page = { width: 100, paint: (text) => text };

async function view(sketch: ObjectSketch, path = "/p/x.bpf.o"): Promise<ObjectView> {
  const kernel = new FakeKernel();
  return inspect(path, kernel.object("x", sketch), kernel);
}

test("one program for both directions", async () => {
  const { entries, chain } = await view({ programs: [{ name: "handle", section: "tc" }] });
  assert.equal(chain, { able: true, reason: null });
  assert.equal(entries, [
    { direction: "ingress", function: "handle", section: "tc" },
    { direction: "egress", function: "handle", section: "tc" },
  ]);
});

test("what cannot stand in a chain is still shown, with the reason", async () => {
  const { entries, chain, programs } = await view({ programs: [{ name: "filter", section: "xdp", type: "xdp" }] });
  assert.equal(entries, []);
  assert.is(chain.able, false);
  assert.match(chain.reason ?? "", "XDP does not work inside a pod");
  assert.is(programs[0]?.type, "xdp");
});

test("what is no object is an error that names the file", async () => {
  const kernel = new FakeKernel();
  try {
    await inspect("/p/x.bpf.o", Buffer.from("text"), kernel);
  } catch (error) {
    assert.instance(error, RemoraError);
    assert.match((error as RemoraError).message, /^\/p\/x\.bpf\.o: /);
    return;
  }
  throw new Error("it was taken for an object");
});

test("a manifest beside the object names the entries", async () => {
  const folder = mkdtempSync(join(tmpdir(), "remora-inspect-"));
  try {
    const path = join(folder, "x.bpf.o");
    const sketch = { programs: [{ name: "one" }, { name: "two" }] };
    assert.match((await view(sketch, path)).chain.reason ?? "", "entry: {ingress: <function>");
    writeFileSync(join(folder, "x.yaml"), "entry: {egress: two}\n");
    const { manifest, entries, chain } = await view(sketch, path);
    assert.is(manifest, join(folder, "x.yaml"));
    assert.is(chain.able, true);
    assert.equal(entries, [{ direction: "egress", function: "two", section: "tc" }]);
    writeFileSync(join(folder, "x.yaml"), "entries: 1\n");
    assert.match((await view(sketch, path)).chain.reason ?? "", "unknown field entries");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("the page, and the JSON shape", async () => {
  class Typed extends FakeKernel {
    override inspectObject(object: Buffer): ObjectInfo {
      const rate = Buffer.alloc(8);
      rate.writeBigUInt64LE(10_000_000n);
      return {
        ...super.inspectObject(object),
        sha256: "5".repeat(64),
        parameters: [
          {
            name: "rate",
            type: { kind: "int", name: "unsigned long long", size: 8, signed: false, encoding: "int" },
            initial: rate,
            tags: ["remora:unit=bitrate", "remora:min=8kbit", "remora:help=bits per second that are let through"],
          },
        ],
      };
    }
  }
  const kernel = new Typed();
  const object = kernel.object("x", {
    programs: [
      { name: "limit_in", section: "tc/ingress" },
      { name: "limit_out", section: "tc/egress", tailCalls: 1, resizes: true },
      { name: "later", section: "tc", inner: true },
    ],
    maps: [
      { name: "buckets", type: "hash", maxEntries: 1024, pinned: true },
      { name: "list", type: "lpm_trie", keySize: 24, tags: ["remora:scope=node", "remora:when=rate"] },
      { name: ".rodata", internal: true },
    ],
  });
  const seen = await inspect("/p/x.bpf.o", object, kernel);
  assert.is(
    renderObject(seen, page),
    `/p/x.bpf.o
  sha256    ${"5".repeat(64)}
  licence   GPL
  BTF       yes
  can stand in a chain

  program    section     type       entry    tail calls  remarks
  limit_in   tc/ingress  sched_cls  ingress           0
  limit_out  tc/egress   sched_cls  egress            1  can resize packets
  later      tc          sched_cls  -                 0  tail-called by the object

  parameter  type  unit     default  range
  rate       u64   bitrate  10Mbit   8kbit or more
               bits per second that are let through
               a bit rate such as 10Mbit, 1.5Gbit or 1200 (bits per second)

  map      type       key  value  entries  remarks
  buckets  hash       4 B    8 B     1024  pinned by name, per pod
  list     lpm_trie  24 B    8 B        1  shared by all pods of the node, only where rate is set
`,
  );
  assert.equal(Object.keys(seen), [
    "path",
    "manifest",
    "sha256",
    "license",
    "btf",
    "chain",
    "entries",
    "programs",
    "parameters",
    "maps",
  ]);
  assert.equal(Object.keys(seen.parameters[0] ?? {}), [
    "name",
    "type",
    "unit",
    "min",
    "max",
    "choices",
    "from",
    "default",
    "expects",
    "help",
  ]);
});

test.run();
