// SPDX-License-Identifier: Apache-2.0
/** The headers in other people's programs: what the macros write is what the catalog reads. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { run, scratch } from "../e2e/lib/scratch.ts";
import { readParameters } from "../plugin/catalog/parameters.ts";
import { createNativeKernel } from "../plugin/kernel/native.ts";

const headers = join(import.meta.dirname, "include/remora");

const program = `
#include <remora/params.h>
#include <remora/packet.h>

const volatile __u64 rate REMORA_UNIT("bitrate") REMORA_MIN("8kbit") REMORA_MAX("10Gbit")
	REMORA_HELP("let through = at most") = 10000000;
const volatile __u32 mode REMORA_CHOICE("drop", "2") REMORA_CHOICE("mark", "7") = 7;
const volatile union remora_address gateway REMORA_UNIT("address") REMORA_FROM("ipv4") = {};
const volatile struct remora_prefix peers[4] REMORA_UNIT("prefix") REMORA_COUNT("peers_count") = {};
const volatile __u8 peers_count = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct remora_flow);
	__type(value, __u64);
} flows SEC(".maps") REMORA_SCOPE("node");

SEC("tc")
int limit(struct __sk_buff *skb)
{
	struct remora_packet packet = remora_parse(skb);
	struct remora_flow flow;

	remora_flow(skb, &packet, &flow);
	bpf_map_delete_elem(&flows, &flow);
	return peers_count && peers[0].length && gateway.words[3] && rate ? (int)mode : -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
`;

test("each macro's tag is read as it was meant", () => {
  using world = scratch();
  const object = readFileSync(world.compile({ text: program }, { flags: ["-Wextra"] }));
  const info = createNativeKernel().inspectObject(object);
  const parameters = readParameters("limit", info);
  assert.equal(
    [...parameters.values()].map(({ name, unit, min, max, choices, help }) => ({
      name,
      unit,
      min,
      max,
      choices,
      help,
    })),
    [
      { name: "rate", unit: "bitrate", min: "8kbit", max: "10Gbit", choices: [], help: "let through = at most" },
      { name: "mode", unit: null, min: null, max: null, choices: ["drop", "mark"], help: "" },
      { name: "gateway", unit: "address", min: null, max: null, choices: [], help: "" },
      { name: "peers", unit: "prefix", min: null, max: null, choices: [], help: "" },
    ],
  );
  assert.is(parameters.get("gateway")?.from, "ipv4");
  assert.is(parameters.get("rate")?.from, null);
  assert.is(parameters.get("rate")?.default, "10Mbit");
  assert.is(parameters.get("mode")?.default, "mark");
  const peers = parameters.get("peers")?.set("10.0.0.0/8, 2001:db8::/32");
  const bytes = Object.fromEntries(peers?.bytes.map(({ name, bytes }) => [name, bytes.toString("hex")]) ?? []);
  assert.equal(bytes, {
    peers:
      `${"00".repeat(10)}ffff0a000000${"6804"}${"00".repeat(6)}20010db8${"00".repeat(12)}${"2006"}${"00".repeat(6)}`.padEnd(
        4 * 48,
        "0",
      ),
    peers_count: "02",
  });
  assert.equal(info.maps.find(({ name }) => name === "flows")?.tags, ["remora:scope=node"]);
});

test("each header compiles alone, without a warning; the parameters' structs in user space too", () => {
  using world = scratch();
  const names = readdirSync(headers);
  assert.ok(names.includes("params.h"));
  for (const name of names)
    world.compile({ text: `#include <remora/${name}>\n`, name: name.replace(".h", "") }, { flags: ["-Wextra"] });
  const source = join(world.dir, "user.c");
  writeFileSync(source, "#include <remora/params.h>\nint size = sizeof(struct remora_rule);\n");
  run("gcc", "-Wall", "-Wextra", "-Werror", `-I${join(headers, "..")}`, "-c", source, "-o", `${source}.o`);
});

test.run();
