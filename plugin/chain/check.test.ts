// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { attach } from "./attach.ts";
import { u32 } from "./bytes.ts";
import { check } from "./check.ts";
import { detach } from "./detach.ts";
import { bpffs, id, input, machine, netns, select } from "./fixture.ts";
import { pinsOf } from "./pins.ts";
import { plan } from "./plan.ts";

const pins = pinsOf(bpffs, id);
const ingress = pins.direction(1, "ingress");

function attached(): FakeKernel {
  const kernel = machine();
  const selected = [
    select(kernel, "first"),
    select(kernel, "second", { maps: [{ name: "flows", pinned: true }], directions: ["ingress"] }),
  ];
  attach(kernel, plan(input(kernel, selected)));
  return kernel;
}

/** Changes something, and expects CHECK to name it. */
function differs(words: RegExp, change: (kernel: FakeKernel) => void): void {
  const kernel = attached();
  change(kernel);
  const open = kernel.openFds();
  try {
    check(kernel, bpffs, id, netns);
  } catch (error) {
    assert.instance(error, RemoraError, String(error));
    assert.is((error as RemoraError).code, code.attachmentDiffers);
    assert.match((error as RemoraError).message, words);
    assert.is(kernel.openFds(), open, "CHECK left descriptors open");
    return;
  }
  assert.unreachable(`CHECK found no difference: ${words}`);
}

/** Puts another kernel object of the same kind in the place of a pin. */
function replaceMap(kernel: FakeKernel, path: string): void {
  kernel.removePin(path);
  const fd = kernel.createMap({ type: "array", name: "other", keySize: 4, valueSize: 8, maxEntries: 1 });
  kernel.pin(fd, path);
  kernel.close(fd);
}

test("nothing differs", () => {
  const kernel = attached();
  assert.is(check(kernel, bpffs, id, netns)?.chains.ingress?.stages.length, 2);
  assert.is(kernel.openFds(), 0);
});

test("nothing attached is said, and left to the caller", () => {
  const kernel = attached();
  detach(kernel, bpffs, id);
  assert.is(check(kernel, bpffs, id, netns), undefined);
});

test("the record", () => {
  differs(/has no record/, (kernel) => kernel.removePin(pins.record));
  differs(/record .* cannot be understood: it holds no JSON/, (kernel) => replaceMap(kernel, pins.record));
});

test("the link", () => {
  differs(/ingress link is missing/, (kernel) => kernel.removePin(pins.link("ingress")));
  differs(/egress link is missing/, (kernel) => kernel.removePin(pins.link("egress")));
  differs(/link_ingress is a map/, (kernel) => replaceMap(kernel, pins.link("ingress")));
  differs(/ingress link is detached/, (kernel) => {
    const { fd } = kernel.openPin(pins.link("ingress"));
    kernel.detachLink(fd);
    kernel.close(fd);
  });
  differs(/egress link runs program id \d+, the record says \d+ \(first 1\.0\)/, (kernel) => {
    const link = kernel.openPin(pins.link("egress")).fd;
    const chain = kernel.openPin(ingress.chain).fd;
    const counters = kernel.openPin(ingress.counters).fd;
    const { object } = select(kernel, "foreign").program;
    const stage = kernel.loadStage({
      object,
      name: "foreign",
      entries: [{ function: "handle", parameters: [] }],
      position: 0,
      length: 1,
      proceedOn: [],
      failurePolicy: "closed",
      chain,
      counters,
      countHead: true,
      reuse: [],
    });
    kernel.updateLink(link, stage.program);
    for (const fd of [link, chain, counters, stage.program]) kernel.close(fd);
  });
});

test("the order: each slot of the chain", () => {
  differs(/position 1 of the ingress chain holds program id \d+, the record says \d+ \(second 1\.0\)/, (kernel) => {
    const chain = kernel.openPin(ingress.chain).fd;
    const first = kernel.tamper(ingress.chain);
    if (first.kind !== "map") throw new Error("no map");
    const [a, b] = [first.slots.get(0), first.slots.get(1)];
    if (!a || !b) throw new Error("empty slots");
    first.slots.set(1, a);
    kernel.close(chain);
  });
  differs(/position 0 of the ingress chain holds no program/, (kernel) => {
    const map = kernel.tamper(ingress.chain);
    if (map.kind === "map") map.slots.delete(0);
  });
  differs(/the ingress chain is missing/, (kernel) => kernel.removePin(ingress.chain));
  differs(/the ingress chain is map id/, (kernel) => replaceMap(kernel, ingress.chain));
});

test("counters and pinned maps", () => {
  differs(/the ingress counters are missing/, (kernel) => kernel.removePin(ingress.counters));
  differs(/the ingress counters are map id/, (kernel) => replaceMap(kernel, ingress.counters));
  differs(/map flows of ingress position 1 is missing/, (kernel) => kernel.removePin(ingress.map(1, "flows")));
});

test("the interface and its namespace", () => {
  differs(/namespace .* is not there any more/, (kernel) => kernel.removeNamespace(netns));
  differs(/interface eth0 is not in/, (kernel) => {
    kernel.removeNamespace(netns);
    kernel.namespace(netns, ["lo"]);
  });
  differs(/is network namespace \d+ \(cookie \d+\), the chain was attached in \d+ /, (kernel) => {
    kernel.removeNamespace(netns);
    kernel.namespace(netns);
  });
});

test("a path that is no network namespace is a wrong CNI_NETNS, as in an ADD", () => {
  for (const errno of ["EINVAL", "ENOTDIR"]) {
    const kernel = attached();
    kernel.interfere = (operation) => {
      if (operation.startsWith("findInterface")) kernel.failAt(0, errno);
    };
    assert.throws(
      () => check(kernel, bpffs, id, netns),
      (error: unknown) =>
        error instanceof RemoraError &&
        error.code === code.invalidEnvironment &&
        error.message === `CNI_NETNS: there is no network namespace at ${netns}`,
    );
  }
});

test("a link that the record does not know of", () => {
  const kernel = machine();
  attach(kernel, plan(input(kernel, [select(kernel, "a", { directions: ["ingress"] })])));
  const { fd } = kernel.openPin(pins.link("ingress"));
  kernel.pin(fd, pins.link("egress"));
  kernel.close(fd);
  assert.throws(() => check(kernel, bpffs, id, netns), /the record has no egress chain, yet a link is pinned/);
});

test("u32 is what the kernel reads", () => {
  assert.equal([...u32(0x01020304)], [4, 3, 2, 1]);
});

test.run();
