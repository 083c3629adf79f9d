// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { FakeKernel } from "../kernel/fake.ts";
import { counterLayout, endings } from "../kernel/port.ts";
import { attach } from "./attach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { plan } from "./plan.ts";
import { listAttachments } from "./status.ts";

const pins = pinsOf(bpffs, id);
const ended = (name: (typeof endings)[number]) => counterLayout.endings + endings.indexOf(name);

test("an attachment as `status --json` prints it", () => {
  const kernel = machine();
  const limit = select(kernel, "limit", {
    select: { shown: { rate: "10Mbit" }, priority: 100 },
    directions: ["egress"],
    change: { version: "2.1" },
  });
  const missing = [{ program: "gone", reason: "no such program" }];
  attach(kernel, plan(input(kernel, [limit], { missing })));
  const [status] = listAttachments(kernel, bpffs);
  assert.equal(
    { ...status, egress: status?.egress.map(({ ended: _, ...entry }) => entry) },
    {
      containerId: "c0ffee.1",
      netns,
      ifname: "eth0",
      pod: { namespace: "default", name: "web", uid: "u1" },
      hook: "tcx",
      generation: 1,
      degraded: missing,
      ingress: [],
      egress: [
        {
          program: "limit",
          at: "pod",
          version: "2.1",
          sha256: limit.program.sha256,
          priority: 100,
          params: { rate: "10Mbit" },
          packets: 0,
          bytes: 0,
          proceeded: 0,
        },
      ],
    },
  );
  assert.equal(Object.keys(status?.egress[0]?.ended ?? {}), [...endings]);
  assert.is(kernel.openFds(), 0);
});

test("packets of a position: its head's, less what ended before", () => {
  const kernel = machine();
  const resizes = select(kernel, "resizes", { programs: [{ name: "handle", resizes: true }] });
  const chain = [select(kernel, "a"), resizes, select(kernel, "c")];
  attach(kernel, plan(input(kernel, chain)));
  const { counters } = pins.direction(1, "ingress");
  const { headPackets, headBytes, endedBytes } = counterLayout;
  kernel.count(counters, 0, { [headPackets]: 100, [headBytes]: 10_000, [endedBytes]: 1_000, [ended("shot")]: 10 });
  kernel.count(counters, 1, { [endedBytes]: 500, [ended("redirect")]: 4, [ended("broken")]: 1 });
  kernel.count(counters, 2, { [headPackets]: 85, [headBytes]: 9_350, [endedBytes]: 110, [ended("stolen")]: 1 });
  const ingress = listAttachments(kernel, bpffs)[0]?.ingress ?? [];
  assert.equal(
    ingress.map(({ packets, bytes, proceeded }) => [packets, bytes, proceeded]),
    [
      [100, 10_000, 90],
      [90, 9_000, 85],
      [85, 9_350, 84],
    ],
  );
  assert.is(ingress[0]?.ended.shot, 10);
  assert.is(ingress[1]?.ended.redirect, 4);
  assert.is(ingress[1]?.ended.broken, 1);
  assert.is(ingress[1]?.ended.shot, 0);
});

test("rows are read from the last position on, so that traffic meanwhile makes no number negative", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [select(kernel, "a"), select(kernel, "b"), select(kernel, "c")])));
  const { counters } = pins.direction(1, "ingress");
  let packets = 0;
  // Between any two reads a thousand packets enter and end at the second position.
  kernel.interfere = (operation) => {
    if (operation !== "lookupMap") return;
    packets += 1000;
    kernel.count(counters, 0, { [counterLayout.headPackets]: packets });
    kernel.count(counters, 1, { [ended("shot")]: packets });
  };
  const ingress = listAttachments(kernel, bpffs)[0]?.ingress ?? [];
  for (const entry of ingress) {
    const sum = Object.values(entry.ended).reduce((a, b) => a + b, 0);
    assert.is(entry.packets, entry.proceeded + sum, JSON.stringify(entry));
    assert.ok(entry.proceeded >= 0);
  }
  assert.ok((ingress[1]?.ended.shot ?? 0) > 0);
});

test("one that cannot be read does not hide the others", () => {
  const kernel = machine();
  for (const containerId of ["a", "b", "c"])
    attach(kernel, plan(input(kernel, [select(kernel, "p")], { id: { ...id, containerId } })));
  const of = (containerId: string) => pinsOf(bpffs, { ...id, containerId });
  kernel.removePin(of("a").direction(1, "ingress").counters);
  kernel.removePin(of("b").record);
  const fd = kernel.createMap({ type: "array", name: "x", keySize: 4, valueSize: 8, maxEntries: 1 });
  kernel.pin(fd, of("b").record);
  kernel.close(fd);
  const list = listAttachments(kernel, bpffs);
  assert.equal(
    list.map(({ containerId, degraded }) => [containerId, degraded.map(({ program }) => program)]),
    [
      ["a", ["(ingress counters)"]],
      ["b", ["(record)"]],
      ["c", []],
    ],
  );
});

for (const hook of ["tcx", "clsact"] as const)
  test(`whatever the kernel refuses to say of one, the others are listed, and it says so (${hook})`, () => {
    const begin = (): FakeKernel => {
      const kernel = machine();
      for (const containerId of ["a", "b"])
        attach(kernel, plan(input(kernel, [select(kernel, "p")], { hook, id: { ...id, containerId } })));
      return kernel;
    };
    const folders = (operation = ""): boolean => operation.startsWith("listDirectory");
    for (let nth = 1; ; nth++) {
      const kernel = begin();
      const before = kernel.operations.length;
      kernel.failAt(nth, "ENOMEM");
      try {
        const list = listAttachments(kernel, bpffs);
        if (kernel.operations.length - before < nth) break;
        const operation = `operation ${nth}, ${kernel.operations[before + nth - 1]}`;
        assert.equal(
          list.map(({ containerId }) => containerId),
          ["a", "b"],
          operation,
        );
        // What is before a chain, and what cannot be closed, is not told of.
        const damaged = list.filter(({ degraded }) => degraded.length > 0);
        assert.ok(damaged.length <= 1, operation);
        for (const { degraded } of damaged) assert.match(degraded[0]?.reason ?? "", /ENOMEM/, operation);
      } catch (error) {
        assert.ok(folders(kernel.operations[before + nth - 1]), `operation ${nth}: ${error}`);
      }
      assert.is(kernel.openFds(), 0, `operation ${nth}`);
    }
  });

test("half-made ones and other people's folders are not listed", () => {
  const kernel = machine();
  for (const path of ["/sys/fs/bpf/remora", "/sys/fs/bpf/remora/net", "/sys/fs/bpf/remora/net/a:eth0"])
    kernel.makeDirectory(path);
  kernel.makeDirectory("/sys/fs/bpf/tc");
  assert.equal(listAttachments(kernel, bpffs), []);
  assert.equal(listAttachments(kernel, "/sys/fs/bpf"), []);
  assert.equal(listAttachments(kernel, "/sys/fs/bpf/nowhere"), []);
});

test.run();
