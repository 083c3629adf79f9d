// SPDX-License-Identifier: Apache-2.0
/** Whose addresses a prevResult's are, and parameters that are filled from them. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, type ErrorCode, RemoraError } from "../errors.ts";
import type { BtfType, ObjectParameter } from "../kernel/port.ts";
import type { Assigned } from "../model.ts";
import { assignedAtAdd, type Given } from "./assigned.ts";
import { catalogOf, config, pod, program } from "./fixture.ts";
import { select } from "./select.ts";

const which = { netns: "/run/netns/a", ifname: "eth0" };
const device = { mac: "02:00:00:00:00:01", mtu: 1450 };
/** What the kernel says, where it is asked. */
const kernel = { interfaceAddresses: () => ["10.9.9.9", "fe80::1", "fd09::9"] };
const asked = ["10.9.9.9", "fd09::9"];

const ours = { name: "eth0", sandbox: "/run/netns/a" };
const host = { name: "lxc1", sandbox: "" };
for (const [what, given, addresses] of [
  ["the host's end first", { interfaces: [host, ours], ips: [{ address: "10.0.0.2/32", interface: 1 }] }, ["10.0.0.2"]],
  [
    "the container's first",
    { interfaces: [ours, host], ips: [{ address: "10.0.0.2/24", interface: 0 }] },
    ["10.0.0.2"],
  ],
  [
    "both families, several addresses, one of them twice",
    {
      interfaces: [host, ours],
      ips: [
        { address: "10.0.0.2/24", interface: 1 },
        { address: "FD00::2/64", interface: 1 },
        { address: "10.0.0.3/24" },
        { address: "10.0.0.2/32" },
      ],
    },
    ["10.0.0.2", "fd00::2", "10.0.0.3"],
  ],
  [
    "another interface's are not ours",
    {
      interfaces: [ours, { name: "net1", sandbox: "/run/netns/a" }],
      ips: [
        { address: "10.0.0.2/24", interface: 0 },
        { address: "10.1.0.2/24", interface: 1 },
      ],
    },
    ["10.0.0.2"],
  ],
  [
    "nor the host's",
    {
      interfaces: [{ name: "eth0", sandbox: "" }, ours],
      ips: [
        { address: "10.0.0.1/24", interface: 0 },
        { address: "10.0.0.2/24", interface: 1 },
      ],
    },
    ["10.0.0.2"],
  ],
  ["no interface is named", { interfaces: [], ips: [{ address: "10.0.0.2/32" }] }, ["10.0.0.2"]],
  [
    "another path of the same namespace",
    { interfaces: [{ name: "eth0", sandbox: "/proc/7/ns/net" }], ips: [{ address: "10.0.0.2/24", interface: 0 }] },
    ["10.0.0.2"],
  ],
  [
    "of several namespaces, ours",
    {
      interfaces: [{ name: "eth0", sandbox: "/run/netns/b" }, ours],
      ips: [
        { address: "10.0.0.3/24", interface: 0 },
        { address: "10.0.0.2/24", interface: 1 },
      ],
    },
    ["10.0.0.2"],
  ],
  ["link-local ones are not given", { interfaces: [], ips: [{ address: "fe80::5/64" }] }, asked],
  ["none: the kernel is asked", { interfaces: [ours], ips: [] }, asked],
  ["only somebody else's: the same", { interfaces: [host], ips: [{ address: "10.0.0.1/24", interface: 0 }] }, asked],
] as [string, Given, string[]][])
  test(`addresses of a prevResult: ${what}`, () => {
    assert.equal(assignedAtAdd(kernel, which, device, given), { addresses, ...device });
  });

// ---- parameters ------------------------------------------------------------------------------------------------

const byte: BtfType = { kind: "int", name: "unsigned char", size: 1, signed: false, encoding: "int" };
const u32: BtfType = { kind: "int", name: "unsigned int", size: 4, signed: false, encoding: "int" };
const bytes = (length: number): BtfType => ({ kind: "array", size: length, length, element: byte });
const one = (name: string, type: BtfType, ...tags: string[]): ObjectParameter => ({
  name,
  type,
  initial: Buffer.alloc(type.size),
  tags: tags.map((tag) => `remora:${tag}`),
});
const list: BtfType = { kind: "array", size: 64, length: 4, element: bytes(16) };

/** A program with a parameter from each source. */
function filled(params = {}) {
  const { info } = program("guard");
  const parameters = [
    one("addresses", list, "unit=address", "count=count", "from=addresses"),
    one("count", u32),
    one("mac", bytes(6), "unit=mac", "from=mac"),
    one("four", bytes(4), "unit=ipv4", "from=ipv4"),
    one("six", bytes(16), "unit=address", "from=ipv6"),
    one("mtu", u32, "from=mtu"),
    one("directions", u32, "from=directions"),
  ];
  return program("guard", { info: { ...info, parameters }, params });
}
const given: Assigned = { addresses: ["10.0.0.2", "fd00::2", "10.0.0.3"], mac: "02:00:00:00:00:01", mtu: 1450 };
const run = (input: Partial<Parameters<typeof select>[0]>) =>
  select({ config, annotations: undefined, pod, catalog: catalogOf(filled()), assigned: () => given, ...input })
    .selected;
const chain = (params = {}) => ({ config: { ...config, chain: [{ program: "guard", params }] } });
const all = {
  addresses: "10.0.0.2; fd00::2; 10.0.0.3",
  mac: given.mac,
  four: "10.0.0.2",
  six: "fd00::2",
  mtu: 1450,
  directions: 3,
};

function refused(act: () => unknown, expected: ErrorCode, words: RegExp): void {
  try {
    act();
  } catch (error) {
    assert.instance(error, RemoraError);
    assert.is((error as RemoraError).code, expected);
    assert.match((error as RemoraError).message, words);
    return;
  }
  assert.unreachable("was not refused");
}

test("parameters are filled from what the interface was given, bytes and words", () => {
  const [selected] = run(chain());
  assert.equal(selected?.shown, all);
  const found = new Map(selected?.parameters.map((parameter) => [parameter.name, parameter.bytes]));
  assert.is(found.get("count")?.readUInt32LE(), 3);
  assert.is(found.get("mac")?.toString("hex"), "020000000001");
  assert.is(found.get("four")?.toString("hex"), "0a000002");
});

test("the directions are those of the entry", () => {
  const input = { ...config, chain: [{ program: "guard", directions: ["egress" as const] }] };
  assert.is(run({ config: input })[0]?.shown.directions, 2);
});

test("for a pod's own program too", () => {
  const [selected] = run({ annotations: { "remora.io/programs": "guard" } });
  assert.equal(selected?.shown, all);
});

test("what the node sets stays, and so does what a manifest sets", () => {
  assert.is(run(chain({ addresses: "10.7.0.1" }))[0]?.shown.addresses, "10.7.0.1");
  const catalog = catalogOf(filled({ mac: "02:00:00:00:00:07" }));
  assert.is(run({ ...chain(), catalog })[0]?.shown.mac, "02:00:00:00:00:07");
});

for (const [what, annotations, words] of [
  [
    "by its own key",
    { "remora.io/programs": "guard", "guard.remora.io/addresses": "10.66.0.1" },
    /^pod shop\/web: annotation guard.remora.io\/addresses: is filled from the pod's own interface, .* \(the value is "10.66.0.1"\)$/,
  ],
  [
    "in JSON",
    { "remora.io/programs": '[{"program": "guard", "params": {"mac": "02:00:00:00:00:66"}}]' },
    /^pod shop\/web: annotation remora.io\/programs: program guard, parameter mac: is filled/,
  ],
] as [string, Record<string, string>, RegExp][])
  test(`an annotation cannot set them, ${what}`, () => {
    refused(() => run({ annotations }), code.badParameter, words);
    // The administrator's command line says it with the same words.
    assert.is(run({ annotations, trusted: true }).length, 1);
  });

test("an annotation changes no parameter of the node's own entry", () => {
  const annotations = { "guard.remora.io/four": "10.66.0.1" };
  refused(() => run({ ...chain(), annotations, trusted: true }), code.badAnnotation, /is not selected/);
});

test("an interface without addresses, and one without a MAC", () => {
  const assigned = () => ({ addresses: [], mac: "", mtu: 1450 });
  refused(() => run({ ...chain(), assigned }), code.badParameter, /parameter addresses: .* was given none/);
  const [selected] = run({ ...chain({ addresses: "10.0.0.1" }), assigned });
  assert.equal(selected?.shown, { addresses: "10.0.0.1", mtu: 1450, directions: 3 });
});

test("where there is no interface, nothing is filled", () => {
  assert.equal(run({ ...chain(), assigned: undefined })[0]?.shown, {});
});

test("more addresses than there is room for are refused", () => {
  const assigned = () => ({ ...given, addresses: [1, 2, 3, 4, 5].map((last) => `10.0.0.${last}`) });
  refused(() => run({ ...chain(), assigned }), code.badParameter, /has 5 elements, at most 4/);
});

for (const [what, type, tags, words] of [
  [
    "an unknown source",
    bytes(6),
    ["unit=mac", "from=name"],
    /names no source \(known: addresses, ipv4, ipv6, mac, mtu, directions\)/,
  ],
  ["addresses for one value", bytes(16), ["unit=address", "from=addresses"], /is for a list of unit address or prefix/],
  ["a MAC of another unit", bytes(16), ["unit=address", "from=mac"], /is for one value of unit mac/],
  ["directions with a unit", u32, ["unit=size", "from=directions"], /is for one value of unit none/],
  ["a family for a list", list, ["unit=address", "from=ipv4"], /is for one value of unit address or ipv4/],
] as [string, BtfType, string[], RegExp][])
  test(`a tag that does not fit: ${what}`, () => {
    const { info } = program("guard");
    const parameters = [one("value", type, ...tags)];
    const catalog = catalogOf(program("guard", { info: { ...info, parameters } }));
    refused(() => run({ ...chain(), catalog }), code.badObject, words);
  });

test.run();
