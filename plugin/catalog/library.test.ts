// SPDX-License-Identifier: Apache-2.0
/** Real objects, compiled and read by the real port: what BTF and tags say arrives as parameters and entries. */
import { chmodSync, copyFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import { createNativeKernel } from "../kernel/native.ts";
import { type Catalog, openCatalog } from "./catalog.ts";
import { readParameters, setParameter } from "./parameters.ts";

const bpf = join(import.meta.dirname, "../../bpf");

/** A program directory in the world, with objects under the names given. */
function programs(world: Scratch, objects: Record<string, string>): Promise<Catalog> {
  const directory = join(world.dir, "programs");
  mkdirSync(directory, { mode: 0o755 });
  for (const [name, path] of Object.entries(objects)) {
    const target = join(directory, `${name}.bpf.o`);
    copyFileSync(path, target);
    chmodSync(target, 0o644);
  }
  return openCatalog([directory], createNativeKernel());
}

function refused(act: () => unknown, expected: ErrorCode, ...parts: string[]): void {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError, String(error));
    assert.is((error as RemoraError).code, expected, String(error));
    for (const part of parts) assert.ok(String(error).includes(part), `${error}\nlacks: ${part}`);
    return;
  }
  throw new Error("was not refused");
}

test("count and acl of the library are found with their entries and parameters", async () => {
  using world = scratch();
  const catalog = await programs(world, {
    count: world.compile(join(bpf, "count.bpf.c")),
    acl: world.compile(join(bpf, "acl.bpf.c")),
  });
  assert.equal(catalog.list().problems, []);
  const count = catalog.get("count");
  assert.equal(Object.keys(count.entry).sort(), ["egress", "ingress"]);

  const acl = catalog.get("acl");
  const parameters = readParameters(acl.path, acl.info);
  assert.equal([...parameters.keys()].sort(), ["default_action", "deny_list", "rules"]);
  assert.equal(acl.mapScopes, { denied: "node" });
  assert.equal(acl.mapConditions, { denied: "deny_list" });
  const rules = parameters.get("rules");
  assert.is(rules?.type, "struct remora_rule[32]");
  assert.is(rules?.unit, "rule");
  assert.is(rules?.default, "");
  const action = parameters.get("default_action");
  assert.equal(action?.choices, ["allow", "deny"]);
  assert.is(action?.default, "allow");

  const setting = setParameter(parameters, "rules", "deny tcp 10.0.0.0/8 80-90; allow icmp");
  assert.equal(
    setting.bytes.map(({ name, bytes }) => [name, bytes.length]),
    [
      ["rules", 1280],
      ["rules_count", 4],
    ],
  );
  assert.is(setting.shown, "deny tcp 10.0.0.0/8 80-90; allow icmp");
});

const text = `
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <remora/params.h>
enum mode { MODE_OFF = -1, MODE_ON = 1 };
const volatile __u64 rate REMORA_UNIT("bitrate") REMORA_MIN("8kbit") REMORA_HELP("let through, per second") = 10000000;
const volatile char label[8] = "none";
const volatile bool strict = true;
const volatile enum mode mode = MODE_ON;
const volatile __s16 offset = -5;
const volatile __u16 ports[4] = {80, 443};
const volatile __u8 gateway[4] REMORA_UNIT("ipv4") = {10, 0, 0, 1};
const volatile __u8 peer[16] REMORA_UNIT("address");
const volatile __u32 share REMORA_UNIT("percent") REMORA_MAX("100%") = 5000;
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } shared SEC(".maps") REMORA_SCOPE("node");
SEC("tc_egress_flow_monitoring") int watch(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *sum = bpf_map_lookup_elem(&shared, &key);
	if (sum)
		*sum += rate + label[0] + strict + mode + offset + ports[skb->ifindex & 3] + gateway[0] + peer[0] + share;
	return 0;
}
char _license[] SEC("license") = "GPL";
`;

test("every type and tag arrives from BTF", async () => {
  using world = scratch();
  const program = (await programs(world, { watch: world.compile({ text, name: "watch" }) })).get("watch");
  assert.equal(program.entry, { egress: "watch" });
  assert.equal(program.mapScopes, { shared: "node" });
  const parameters = readParameters(program.path, program.info);
  const told = [...parameters.values()].map(({ name, type, default: initial }) => [name, type, initial]);
  assert.equal(
    told.sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)),
    [
      ["gateway", "u8[4]", "10.0.0.1"],
      ["label", "char[8]", "none"],
      ["mode", "enum mode", "MODE_ON"],
      ["offset", "s16", -5],
      ["peer", "u8[16]", "::"],
      ["ports", "u16[4]", "80; 443"],
      ["rate", "u64", "10Mbit"],
      ["share", "u32", "0.5%"],
      ["strict", "bool", true],
    ],
  );
  assert.is(parameters.get("rate")?.min, "8kbit");
  assert.is(parameters.get("share")?.max, "100%");
  assert.is(parameters.get("rate")?.help, "let through, per second");
});

const tc = (section: string, name: string) => `SEC("${section}") int ${name}(void *ctx) { return 0; }\n`;
const source = (...functions: string[]) =>
  `#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n${functions.join("")}char _license[] SEC("license") = "GPL";\n`;

test("what cannot stand in a chain is a bad object that says why", async () => {
  using world = scratch();
  const whole = world.compile({ text: source(tc("tc", "whole")), name: "whole" });
  const truncated = join(world.dir, "truncated.o");
  copyFileSync(whole, truncated);
  truncateSync(truncated, Math.floor(readFileSync(whole).length / 2));
  const junk = join(world.dir, "junk.o");
  writeFileSync(junk, "not an object");
  const catalog = await programs(world, {
    xdp: world.compile({ text: source(tc("xdp", "on_xdp")), name: "xdp" }),
    two: world.compile({ text: source(tc("tc", "one"), tc("tc", "other")), name: "two" }),
    empty: world.compile({ text: source(), name: "empty" }),
    truncated,
    junk,
    whole,
  });
  refused(() => catalog.get("xdp"), code.badObject, "XDP does not work inside a pod");
  refused(() => catalog.get("two"), code.badObject, "one (section tc), other (section tc)", "two.yaml");
  refused(() => catalog.get("empty"), code.badObject, "empty.bpf.o");
  refused(() => catalog.get("truncated"), code.badObject, "truncated.bpf.o");
  refused(() => catalog.get("junk"), code.badObject, "junk.bpf.o");
  const { programs: usable, problems } = catalog.list();
  assert.equal(
    usable.map(({ name }) => name),
    ["whole"],
  );
  assert.is(problems.length, 5);
});

test("sections without a direction of libbpf's, and both directions in one object", async () => {
  using world = scratch();
  const catalog = await programs(world, {
    odd: world.compile({ text: source(tc("tc-ingress", "a"), tc("classifier/egress", "b")), name: "odd" }),
    tcx: world.compile({ text: source(tc("tcx/egress", "c")), name: "tcx" }),
    beside: world.compile({ text: source(tc("tc", "d"), tc("xdp", "x")), name: "beside" }),
  });
  assert.equal(catalog.get("odd").entry, { ingress: "a", egress: "b" });
  assert.equal(catalog.get("tcx").entry, { egress: "c" });
  assert.equal(catalog.get("beside").entry, { ingress: "d", egress: "d" });
});

test.run();
