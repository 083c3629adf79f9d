// SPDX-License-Identifier: Apache-2.0
/** The examples are what they claim to be: lists that libcni takes, with an entry that our schema takes. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parse } from "yaml";
import { readConfig } from "../plugin/cni/schema.ts";
import { isSupported } from "../plugin/cni/version.ts";

interface Conflist {
  cniVersion: string;
  name: string;
  plugins: { type: string; capabilities?: Record<string, boolean> }[];
}

const folder = import.meta.dirname;
const read = (file: string): string => readFileSync(join(folder, file), "utf8");
const examples: Record<string, string> = {
  "ptp.conflist": "ptp",
  "bridge.conflist": "bridge",
  "flannel.conflist": "flannel",
  "calico.conflist": "calico",
  "cilium.conflist": "cilium-cni",
};

test("every example is in the table, and has its section in the README", () => {
  const files = readdirSync(folder).filter((file) => file.endsWith(".conflist"));
  assert.equal(files.sort(), Object.keys(examples).sort());
  for (const file of [...files, "cilium-configmap.yaml"])
    assert.match(read("README.md"), new RegExp(`^## .*\\b${file.replace(".", "\\.")}`, "m"));
});

for (const [file, primary] of Object.entries(examples))
  test(`${file}: remora stands right behind ${primary}`, () => {
    const { cniVersion, name, plugins, ...more } = JSON.parse(read(file)) as Conflist;
    assert.equal(more, {});
    assert.ok(isSupported(cniVersion));
    assert.equal([plugins[0]?.type, plugins[1]?.type], [primary, "remora"]);
    assert.equal(plugins[1]?.capabilities, { "io.kubernetes.cri.pod-annotations": true });
    assert.is(new Set(plugins.map(({ type }) => type)).size, plugins.length);
    // Throws where anything in it is unknown or wrong.
    assert.is(readConfig({ ...plugins[1], cniVersion, name }, name).network, name);
  });

test("cilium: the ConfigMap holds the same list, under the key that Cilium reads", () => {
  const { kind, metadata, data } = parse(read("cilium-configmap.yaml"));
  assert.equal([kind, metadata.namespace, Object.keys(data)], ["ConfigMap", "kube-system", ["cni-config"]]);
  assert.equal(JSON.parse(data["cni-config"]), JSON.parse(read("cilium.conflist")));
  assert.is(JSON.parse(data["cni-config"]).name, "cilium");
});

test.run();
