// SPDX-License-Identifier: Apache-2.0
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { FakeKernel, type ObjectSketch } from "../kernel/fake.ts";
import { libraryDir } from "./directories.ts";
import { renderCatalog, viewCatalog } from "./programs.ts";
import { run } from "./run.ts";
import type { Page } from "./terminal.ts";

const page: Page = { width: 100, paint: (text) => text };

/** A folder with these objects and manifests. It is root's, as the tests are. */
function folder(kernel: FakeKernel, objects: Record<string, ObjectSketch>, manifests: Record<string, string> = {}) {
  const path = mkdtempSync(join(tmpdir(), "remora-programs-"));
  for (const [name, sketch] of Object.entries(objects)) {
    writeFileSync(join(path, `${name}.bpf.o`), kernel.object(name, sketch), { mode: 0o644 });
  }
  for (const [name, text] of Object.entries(manifests)) {
    writeFileSync(join(path, `${name}.yaml`), text, { mode: 0o644 });
  }
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

test("the page: what can be used, and what cannot with the reason", async () => {
  const kernel = new FakeKernel();
  using dir = folder(
    kernel,
    { mark: { parameters: ["value"] }, wall: { programs: [{ name: "f", type: "xdp", section: "xdp" }] } },
    {
      mark: `version: "1.2"
description: Marks packets.
priority: 100
params: {value: 7}
namespaces: [shop-*]
failurePolicy: open
at: host
`,
    },
  );
  const view = await viewCatalog([dir.path], kernel);
  const text = renderCatalog(view, page).replaceAll(dir.path, "/programs-of-a-test");
  assert.is(
    text.slice(0, text.indexOf("wall")),
    `mark  1.2  ingress and egress  priority 100
  Marks packets.
  /programs-of-a-test/mark.bpf.o
  its egress side stands at the host's end of the pair
  only for the namespaces shop-*
  failure policy open
  parameter  type  default
  value      u32   7
               a whole number such as 10 or 0x1f

Not usable:
  /programs-of-a-test/`,
  );
  assert.match(view.problems[0]?.reason ?? "", "XDP does not work inside a pod");
});

test("the JSON shape", async () => {
  const kernel = new FakeKernel();
  using dir = folder(kernel, { mark: { parameters: ["value"] } });
  const view = JSON.parse(JSON.stringify(await viewCatalog([dir.path], kernel)));
  const [{ sha256, ...mark }] = view.programs;
  assert.match(sha256, /^[0-9a-f]{64}$/);
  assert.equal(view.directories, [dir.path]);
  assert.equal(view.problems, []);
  assert.equal(mark, {
    name: "mark",
    version: sha256.slice(0, 12),
    description: "",
    path: join(dir.path, "mark.bpf.o"),
    priority: 500,
    directions: ["ingress", "egress"],
    at: "pod",
    proceedOn: ["unspec", "ok", "pipe"],
    failurePolicy: null,
    namespaces: null,
    nodeWide: true,
    mapScopes: {},
    parameters: [
      {
        name: "value",
        type: "u32",
        unit: null,
        min: null,
        max: null,
        choices: [],
        from: null,
        default: 0,
        expects: "a whole number such as 10 or 0x1f",
        help: "",
      },
    ],
  });
});

test("a file that others can write is a problem, not a program", async () => {
  const kernel = new FakeKernel();
  using dir = folder(kernel, { mark: {} });
  chmodSync(join(dir.path, "mark.bpf.o"), 0o666);
  const { programs, problems } = await viewCatalog([dir.path], kernel);
  assert.equal(programs, []);
  assert.is(problems[0]?.code, 108);
  assert.match(problems[0]?.reason ?? "", "chmod go-w");
});

test("no programs", async () => {
  const view = await viewCatalog(["/nowhere/programs"], new FakeKernel());
  assert.is(renderCatalog(view, page), "No programs in /nowhere/programs.\n");
});

test("the library beside the executable is looked into as well", async () => {
  const kernel = new FakeKernel();
  using dir = folder(kernel, {});
  mkdirSync(join(dir.path, "programs"));
  writeFileSync(join(dir.path, "programs/mark.bpf.o"), kernel.object("mark"), { mode: 0o644 });
  const executable = join(dir.path, "runtime/remora");
  assert.is(libraryDir(executable), join(dir.path, "programs"));
  assert.is(libraryDir("/nowhere/runtime/remora"), undefined);

  let stdout = "";
  const io = {
    stdout(text: string) {
      stdout += text;
    },
    stderr() {},
    isTerminal: false,
    columns: 0,
    executable,
  };
  const tools = { kernel: async () => kernel, root: "/nowhere" };
  assert.is(await run(["programs", "--json"], io, tools), 0);
  const { directories, programs } = JSON.parse(stdout);
  assert.equal(directories, ["/etc/remora/programs", join(dir.path, "programs")]);
  assert.ok(programs.some(({ name }: { name: string }) => name === "mark"));

  stdout = "";
  assert.is(await run(["programs"], io, tools), 0);
  assert.match(stdout, "  for pods, copy it into a program directory such as /etc/remora/programs\n");

  // Directories that were named are the only ones.
  stdout = "";
  assert.is(await run(["programs", "--json", "--dir", "/nowhere/a", "--dir", "/nowhere/b"], io, tools), 0);
  const named = JSON.parse(stdout);
  assert.equal(named.directories, ["/nowhere/a", "/nowhere/b"]);
  assert.equal(named.problems[1], { path: "/nowhere/b", code: 5, reason: "/nowhere/b does not exist" });
});

test.run();
