// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { checkConfiguration, checkLauncher } from "./node.ts";

/** A folder that stands for `/`, with these files. */
function machine(files: Record<string, string | { text: string; mode: number }>) {
  const root = mkdtempSync(join(tmpdir(), "remora-doctor-"));
  for (const [path, content] of Object.entries(files)) {
    const { text, mode } = typeof content === "string" ? { text: content, mode: 0o644 } : content;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode });
  }
  return { root, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

const folder = "/etc/cni/net.d";
const remora = { type: "remora", capabilities: { "io.kubernetes.cri.pod-annotations": true } };
const conflist = (...plugins: object[]) => JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins });

function configuration(files: Record<string, string>) {
  using world = machine(files);
  return checkConfiguration(world.root, folder);
}

test("the first valid file lists remora behind the primary plugin", () => {
  const { checks, entry } = configuration({
    [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }, { ...remora, programDirs: ["/p"], bpffs: "/b" }),
    [`${folder}/20-other.conflist`]: conflist({ type: "bridge" }),
  });
  assert.equal(checks, [
    { check: "CNI configuration", state: "ok", found: "/etc/cni/net.d/10-pods.conflist lists remora" },
  ]);
  assert.equal(entry, { file: "/etc/cni/net.d/10-pods.conflist", programDirs: ["/p"], bpffs: "/b" });
});

test("a file that is not valid is passed by, and named", () => {
  const { checks, entry } = configuration({
    [`${folder}/00-broken.conflist`]: "{",
    [`${folder}/05-empty.conflist`]: conflist(),
    [`${folder}/07-notes.txt`]: "not looked at",
    [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }, remora),
  });
  assert.equal(
    checks.map(({ state }) => state),
    ["note", "note", "ok"],
  );
  assert.match(checks[0]?.found ?? "", "/etc/cni/net.d/00-broken.conflist is not valid");
  assert.is(entry?.file, "/etc/cni/net.d/10-pods.conflist");
});

test("a list without remora is a note with what to add", () => {
  const { checks, entry } = configuration({ [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }) });
  assert.is(checks[0]?.state, "note");
  assert.match(checks[0]?.remedy ?? "", '{"type": "remora"');
  assert.is(entry, undefined);
});

test("an entry that an ADD would refuse is missing, with the ADD's words", () => {
  const { checks, entry, config } = configuration({
    [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }, { ...remora, chian: [], bpffs: "/b" }),
  });
  assert.is(checks[0]?.state, "missing");
  assert.match(checks[0]?.found ?? "", /^\/etc\/cni\/net\.d\/10-pods\.conflist: unknown field "chian"; known are/);
  assert.equal([entry?.bpffs, config], ["/b", undefined]);
});

test("a list whose version or name an ADD would refuse is missing, with the ADD's words", () => {
  const look = (list: object) => {
    const text = JSON.stringify({ cniVersion: "1.0.0", name: "pods", plugins: [{ type: "ptp" }, remora], ...list });
    const { checks, entry } = configuration({ [`${folder}/10-pods.conflist`]: text });
    assert.is(entry?.file, `${folder}/10-pods.conflist`);
    return checks.map(({ state, found, remedy = "" }) => `${state} ${found}: ${remedy}`).join();
  };
  assert.match(
    look({ cniVersion: "0.3.0" }),
    /^missing .*10-pods\.conflist: incompatible CNI versions: .* is "0\.3\.0"; Remora supports 0\.3\.1, .*: .*until then the ADD of every pod fails/,
  );
  assert.match(look({ cniVersion: undefined }), /^missing .*cniVersion is none, which means 0\.1\.0/);
  assert.match(look({ cniVersion: 1 }), /^missing .*cniVersion: expected text/);
  assert.match(look({ name: "our pods" }), /^missing .*name: "our pods" must begin with a letter or digit/);
  assert.match(look({ name: undefined }), /^missing .*name is missing/);
  // The runtime chooses one of those that it knows.
  assert.match(look({ cniVersion: "0.3.0", cniVersions: ["0.3.0", "1.1.0"] }), /^ok /);
});

test("remora stands in a list once: the second's chain would take the first's place", () => {
  const { checks, entry, config } = configuration({
    [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }, { ...remora, bpffs: "/b" }, { type: "portmap" }, remora),
  });
  assert.is(checks[0]?.state, "missing");
  assert.match(
    checks[0]?.found ?? "",
    /10-pods\.conflist lists remora 2 times, and the last one's chain takes the place/,
  );
  assert.match(checks[0]?.remedy ?? "", "one entry");
  assert.equal([entry?.bpffs, config], ["/b", undefined]);
});

test("a single plugin has to become a list", () => {
  const { checks } = configuration({ [`${folder}/10-pods.conf`]: JSON.stringify({ type: "ptp" }) });
  assert.match(checks[0]?.remedy ?? "", "make it a .conflist");
});

test("remora cannot stand first", () => {
  const { checks } = configuration({ [`${folder}/10-pods.conflist`]: conflist(remora, { type: "ptp" }) });
  assert.is(checks[0]?.state, "missing");
});

test("without the capability no annotation arrives", () => {
  const { checks } = configuration({
    [`${folder}/10-pods.conflist`]: conflist({ type: "ptp" }, { type: "remora" }),
  });
  assert.is(checks[0]?.state, "note");
  assert.match(checks[0]?.remedy ?? "", "io.kubernetes.cri.pod-annotations");
});

test("no folder", () => {
  const { checks } = configuration({});
  assert.is(checks[0]?.found, "no valid file in /etc/cni/net.d");
});

test("the launcher: absent, not executable, without its runtime, whole", () => {
  const look = (files: Parameters<typeof machine>[0], listed = true) => {
    using world = machine(files);
    return checkLauncher(world.root, "/opt/cni/bin", listed);
  };
  const launcher = { text: "", mode: 0o755 };
  assert.is(look({}).state, "missing");
  assert.is(look({}, false).state, "note");
  assert.is(look({ "/opt/cni/bin/remora": "" }).found, "/opt/cni/bin/remora is not executable");
  assert.match(look({ "/opt/cni/bin/remora": launcher }).found, "has no runtime");
  assert.is(look({ "/opt/cni/bin/remora": launcher, "/opt/remora/runtime/x": "" }).state, "ok");
  assert.is(look({ "/opt/cni/bin/remora": launcher, "/opt/cni/bin/runtime/x": "" }).state, "ok");
});

test.run();
