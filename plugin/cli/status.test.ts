// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { AttachmentStatus, StatusEntry } from "../model.ts";
import { renderStatus } from "./status.ts";
import type { Page } from "./terminal.ts";

const page: Page = { width: 100, paint: (text) => text };

const count: StatusEntry = {
  program: "count",
  at: "pod",
  version: "1.0.2",
  sha256: "0".repeat(64),
  priority: 0,
  params: {},
  packets: 184467,
  bytes: 18446744073709,
  proceeded: 184467,
  ended: {},
};
const acl: StatusEntry = {
  ...count,
  program: "acl",
  version: "3f2a9c01bd7e",
  priority: 500,
  params: { deny: "10.0.0.0/8", ports: "80-443", default: "allow all", limit: 7, note: "" },
  proceeded: 184430,
  ended: { shot: 34, redirect: 0, broken: 3 },
};
const web: AttachmentStatus = {
  containerId: "3f2a9c01bd7e44aa90c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6f7081",
  netns: "/run/netns/cni-5f0c1a2b-3c4d-5e6f-7081-92a3b4c5d6e7",
  ifname: "eth0",
  pod: { namespace: "shop", name: "web-7d4b9c-x2x4z", uid: "u" },
  hook: "tcx",
  generation: 2,
  degraded: [],
  ingress: [count, acl],
  egress: [{ ...count, packets: 12, bytes: 1200, proceeded: 12 }],
};

test("a pod with two programs", () => {
  assert.is(
    renderStatus([web], page, "/sys/fs/bpf/remora"),
    `shop/web-7d4b9c-x2x4z  eth0  tcx  generation 2
  container 3f2a9c01bd7e  netns /run/netns/cni-5f0c1a2b-3c4d-5e6f-7081-92a3b4c5d6e7
           program  version       priority  packets           bytes  proceeded  ended
  ingress  count    1.0.2                0   184467  18446744073709     184467
           acl      3f2a9c01bd7e       500   184467  18446744073709     184430  shot 34, broken 3
             deny=10.0.0.0/8 ports=80-443 default="allow all" limit=7 note=""
  egress   count    1.0.2                0       12            1200         12
`,
  );
});

test("programs of others before a chain", () => {
  const behind = [
    { direction: "ingress" as const, at: "pod" as const, programs: ["theirs (id 7)"] },
    { direction: "egress" as const, at: "host" as const, programs: ["cil_from_container (id 8)", "other (id 9)"] },
  ];
  const lines = renderStatus([{ ...web, behind }], page, "/sys/fs/bpf/remora").split("\n");
  assert.equal(lines.slice(2, 4), [
    "  behind another program on ingress: theirs (id 7)",
    "  behind 2 other programs on egress of the host's end: cil_from_container (id 8), other (id 9)",
  ]);
});

test("a container without a pod, degraded, with nothing attached", () => {
  const bare: AttachmentStatus = {
    ...web,
    pod: null,
    degraded: [
      { program: "flow-log", reason: "unknown program; the directories /etc/remora/programs hold: count, acl" },
    ],
    ingress: [],
    egress: [],
  };
  assert.is(
    renderStatus([bare], page, "/x"),
    `container 3f2a9c01bd7e  eth0  tcx  generation 2
  netns /run/netns/cni-5f0c1a2b-3c4d-5e6f-7081-92a3b4c5d6e7
  degraded: flow-log: unknown program; the directories /etc/remora/programs hold: count, acl
  no programs
`,
  );
});

test("nothing attached", () => {
  assert.is(
    renderStatus([], page, "/sys/fs/bpf/remora"),
    "Nothing is attached on this node (looked in /sys/fs/bpf/remora).\n",
  );
});

test("no line is wider than the page, whatever the pods are called and set", () => {
  const wide: AttachmentStatus = {
    ...web,
    pod: { namespace: "n".repeat(60), name: "p".repeat(20), uid: "" },
    degraded: [{ program: "x".repeat(70), reason: `${"long ".repeat(30)}\x1b[2J` }],
    ingress: [
      {
        ...acl,
        program: "a-program-with-a-rather-long-name",
        version: "v2026.11.22-rc.1+build.4711",
        at: "host",
        params: Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`parameter_${i}`, `value ${i}`])),
        ended: { shot: 1e9, redirect: 1e9, stolen: 1e9, broken: 5 },
      },
    ],
  };
  const text = renderStatus([wide], page, "/x");
  for (const line of text.split("\n")) assert.ok(line.length <= 100, line);
  assert.not.match(text, "\x1b");
  assert.match(text, /\bhost\b/);
});

test.run();
