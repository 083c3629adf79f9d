// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { largestManifest, largestObject } from "../catalog/catalog.ts";
import { code, RemoraError } from "../errors.ts";
import { FakeKernel, type ObjectSketch } from "../kernel/fake.ts";
import type { ObjectInfo } from "../kernel/port.ts";
import { inspect, type ObjectView, readObject, renderObject } from "./inspect.ts";
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

test("a file that is none, or too large, is refused and not waited for", () => {
  const folder = mkdtempSync(join(tmpdir(), "remora-inspect-"));
  try {
    const path = join(folder, "x.bpf.o");
    const said = (text: string) => (error: unknown) =>
      error instanceof RemoraError && error.code === code.ioFailure && error.message === text;
    execFileSync("mkfifo", [path]);
    const irregular = `${path} cannot be read: it is not a regular file; name an object file`;
    assert.throws(() => readObject(path), said(irregular));
    rmSync(path);
    mkdirSync(path);
    assert.throws(() => readObject(path), said(irregular));
    rmSync(path, { recursive: true });
    assert.throws(
      () => readObject(path),
      said(`${path} cannot be read: ENOENT: no such file or directory; name an object file`),
    );
    writeFileSync(path, "");
    truncateSync(path, largestObject + 1);
    assert.throws(
      () => readObject(path),
      said(`${path} cannot be read: it is larger than 16777216 bytes; name an object file`),
    );
    truncateSync(path, largestObject);
    assert.is(readObject(path).length, largestObject);
    // In /proc a file does not say its length, and a link leads to it.
    assert.throws(
      () => readObject("/proc/self/status"),
      said("/proc/self/status cannot be read: it is longer than it says, or grows; name an object file"),
    );
    symlinkSync(path, join(folder, "link"));
    assert.is(readObject(join(folder, "link")).length, largestObject);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a manifest that is no file, or too large, is said and not waited for", async () => {
  const folder = mkdtempSync(join(tmpdir(), "remora-inspect-"));
  try {
    const manifest = join(folder, "x.yaml");
    const reason = async () => (await view({}, join(folder, "x.bpf.o"))).chain.reason;
    execFileSync("mkfifo", [manifest]);
    assert.is(await reason(), `${manifest} cannot be read: it is not a regular file; put the manifest in its place`);
    rmSync(manifest);
    writeFileSync(manifest, "#".repeat(largestManifest + 1));
    assert.match((await reason()) ?? "", "x.yaml cannot be read: it is larger than 65536 bytes");
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
