// SPDX-License-Identifier: Apache-2.0
/** A pod's life with its chain on the clsact qdisc, on the real kernel, beside filters of others. */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { collect } from "../../plugin/chain/collect.ts";
import { listAttachments } from "../../plugin/chain/status.ts";
import type { Watch } from "../../plugin/cli/command.ts";
import { code, RemoraError } from "../../plugin/errors.ts";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { keepLog, request } from "../../plugin/verbs/fixture.ts";
import { createVerbs } from "../../plugin/verbs/index.ts";
import { remora, remoraWith } from "../lib/pod.ts";
import { type Namespace, run, type Scratch, scratch } from "../lib/scratch.ts";

const kernel = createNativeKernel();
const source = `
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
const volatile int verdict = -1;
SEC("tc") int give(struct __sk_buff *skb) { return verdict; }
char _license[] SEC("license") = "Dual BSD/GPL";
`;
const pass = { program: "give" };
const drop = { program: "give", params: { verdict: 2 } };

function pod(world: Scratch) {
  const [inside, outside] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: inside, ifname: "eth0", addresses: ["10.97.0.2/24"] },
    { namespace: outside, ifname: "host0", addresses: ["10.97.0.1/24"] },
  );
  const programs = join(world.dir, "programs");
  mkdirSync(programs, { mode: 0o755 });
  copyFileSync(world.compile({ text: source, name: "give" }), join(programs, "give.bpf.o"));
  const bpffs = `${world.bpffs()}/remora`;
  const log = keepLog();
  return {
    inside,
    bpffs,
    log,
    verbs: createVerbs({ kernel: () => kernel, log }),
    asked: (chain: object[]) =>
      request(programs, bpffs, { netns: inside.path, config: { hook: "clsact", chain: chain as never } }),
    /** Whether the peer gets an answer. */
    reaches: () => spawnSync("ip", ["netns", "exec", outside.name, "ping", "-c1", "-W1", "10.97.0.2"]).status === 0,
    pins: () =>
      readdirSync(join(bpffs, ".."), { recursive: true })
        .map(String)
        .filter((name) => !name.endsWith(".debug")),
    collect: () => collect(kernel, bpffs, { graceSeconds: 0 }),
  };
}

/** What hangs on eth0, as the kernel shows it: qdisc and filters, without what counts or runs on. */
const shown = (inside: Namespace): string =>
  ["qdisc show dev eth0", "filter show dev eth0 ingress", "filter show dev eth0 egress"]
    .map((words) => inside.exec("tc", ...words.split(" ")))
    .join("--\n");
const priorities = (inside: Namespace, direction: string): string[] => [
  ...new Set(
    [...inside.exec("tc", "filter", "show", "dev", "eth0", direction).matchAll(/pref (\d+)/g)].map((m) => m[1] ?? ""),
  ),
];

async function refusal(promise: Promise<void>): Promise<RemoraError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof RemoraError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

test("ADD, traffic, CHECK, status, apply, trace, DEL without a namespace: the device is as it was", async () => {
  using world = scratch();
  const it = pod(world);
  const before = shown(it.inside);
  assert.not.match(before, /clsact/);
  await it.verbs.add(it.asked([pass, pass]));
  assert.match(it.log.lines.join("\n"), /hook clsact: clsact/);
  assert.ok(it.reaches());
  await it.verbs.check(it.asked([]));
  const [status] = listAttachments(kernel, it.bpffs);
  assert.is(status?.hook, "clsact");
  assert.ok((status?.ingress[1]?.packets ?? 0) > 0);
  assert.ok((status?.egress[1]?.packets ?? 0) > 0);
  const places = ["ingress", "egress"].map((direction) => priorities(it.inside, direction));
  assert.equal(places, [["512"], ["512"]]);

  const where = ["--bpffs", it.bpffs];
  const apply = async (...chain: object[]): Promise<void> => {
    const argv = ["apply", "c0ffee", "--without-node-chain", "--programs", JSON.stringify(chain), ...where];
    const { status: exit, stderr } = await remora(...argv);
    assert.is(exit, 0, stderr);
  };
  await apply(drop);
  assert.not(it.reaches());
  await it.verbs.check(it.asked([]));
  await apply(pass, { ...pass, directions: ["ingress"] });
  assert.ok(it.reaches());
  assert.equal(
    ["ingress", "egress"].map((direction) => priorities(it.inside, direction)),
    places,
    "in the same places",
  );

  const started = performance.now();
  const watch: Watch = {
    stopped: false,
    now: () => performance.now(),
    monotonic: () => process.hrtime.bigint(),
    date: () => Date.now(),
    size: () => ({ columns: 0, rows: 0 }),
    async pause(milliseconds) {
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      it.reaches();
      return performance.now() - started > 20_000 ? "stopped" : "elapsed";
    },
    [Symbol.dispose]() {},
  };
  const argv = ["trace", "c0ffee", "--proto", "icmp", "--count", "2", "--json", ...where];
  const { status: exit, stdout, stderr } = await remoraWith({ watch: async () => watch }, ...argv);
  assert.is(exit, 0, stderr);
  assert.match(stdout, /give/);
  await it.verbs.check(it.asked([]));
  assert.ok(it.reaches());

  await it.verbs.del({ ...it.asked([]), netns: "" });
  assert.equal(it.pins(), []);
  assert.is(shown(it.inside), before);
});

test("other people's qdisc and filters are as they were, and before or behind ours", async () => {
  using world = scratch();
  const it = pod(world);
  it.inside.exec("tc", "qdisc", "add", "dev", "eth0", "clsact");
  const add = (direction: string, priority: number): void => {
    it.inside.exec(
      ...["tc", "filter", "add", "dev", "eth0", direction, "prio", String(priority), "protocol", "all"],
      ...["handle", "1", "bpf", "da", "bytecode", "1,6 0 0 4294967295"],
    );
  };
  add("ingress", 1);
  add("egress", 700);
  const before = shown(it.inside);
  await it.verbs.add(it.asked([pass]));
  assert.ok(it.reaches());
  assert.equal(priorities(it.inside, "ingress"), ["1", "2"]);
  assert.equal(priorities(it.inside, "egress"), ["512", "700"]);
  const [status] = listAttachments(kernel, it.bpffs);
  assert.equal(
    status?.behind?.map(({ direction, programs }) => [direction, programs.length]),
    [["ingress", 1]],
  );
  assert.match(status?.behind?.[0]?.programs[0] ?? "", /priority 1/);
  await it.verbs.check(it.asked([]));
  await it.verbs.del({ ...it.asked([]), netns: "" });
  assert.is(shown(it.inside), before);
  // The qdisc that was made for us stays while others need it.
  it.inside.exec("tc", "qdisc", "delete", "dev", "eth0", "clsact");
  await it.verbs.add(it.asked([pass]));
  add("ingress", 900);
  await it.verbs.del(it.asked([]));
  assert.equal(priorities(it.inside, "ingress"), ["900"]);
  assert.match(shown(it.inside), /clsact/);
});

test("a pod that takes its chain off: CHECK tells, gc leaves it alone, apply puts it back", async () => {
  using world = scratch();
  const it = pod(world);
  await it.verbs.add(it.asked([drop]));
  it.inside.exec("tc", "qdisc", "delete", "dev", "eth0", "clsact");
  assert.ok(it.reaches());
  const { code: found, message } = await refusal(it.verbs.check(it.asked([drop])));
  assert.is(found, code.attachmentDiffers);
  assert.match(message, /ingress filter is not on eth0 any more/);
  assert.equal(it.collect(), { settled: [], removed: [], failed: [] });
  assert.match(JSON.stringify(listAttachments(kernel, it.bpffs)[0]?.degraded), /somebody has removed it/);
  const { status, stderr } = await remora("apply", "c0ffee", "--bpffs", it.bpffs, "--programs", "[]");
  assert.is(status, 0, stderr);
  assert.not(it.reaches());
  await it.verbs.check(it.asked([]));
  await it.verbs.del(it.asked([]));
  assert.ok(it.reaches());
  assert.not.match(shown(it.inside), /clsact/);
});

test("a namespace that dies without a DEL: DEL succeeds, and gc collects", async () => {
  for (const way of ["del", "gc"] as const) {
    using world = scratch();
    const it = pod(world);
    const doomed = world.namespace();
    doomed.exec("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0");
    await it.verbs.add({ ...it.asked([pass]), netns: doomed.path });
    assert.equal(it.collect().removed, []);
    run("ip", "netns", "delete", doomed.name);
    if (way === "del") await it.verbs.del(it.asked([]));
    else
      assert.equal(
        it.collect().removed.map(({ reason }) => reason),
        ["its interface is gone"],
      );
    assert.equal(it.pins(), []);
  }
});

test("an interface that goes while its namespace stays: gc collects", async () => {
  using world = scratch();
  const it = pod(world);
  await it.verbs.add(it.asked([pass]));
  it.inside.exec("ip", "link", "delete", "eth0");
  assert.equal(
    it.collect().removed.map(({ reason }) => reason),
    ["its interface is gone"],
  );
  assert.equal(it.pins(), []);
});

test("from a mount namespace without the node's, gc removes nothing of a pod that lives", async () => {
  using world = scratch();
  const it = pod(world);
  await it.verbs.add(it.asked([drop]));
  const script = `
    import { collect } from "${import.meta.dirname}/../../plugin/chain/collect.ts";
    import { createNativeKernel } from "${import.meta.dirname}/../../plugin/kernel/native.ts";
    console.log(JSON.stringify(collect(createNativeKernel(), "${it.bpffs}", { graceSeconds: 0 })));`;
  // /run is another: there is no /run/netns in it.
  const hidden = ["--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" "$@"', process.execPath];
  const found = run("unshare", ...hidden, "--input-type=module-typescript", "-e", script);
  assert.equal(JSON.parse(found), { settled: [], removed: [], failed: [] });
  assert.not(it.reaches(), "the chain is in place");
  await it.verbs.check(it.asked([]));
  await it.verbs.del(it.asked([]));
  assert.equal(it.pins(), []);
});

test("attach by hand, with the hook by name", async () => {
  using world = scratch();
  const it = pod(world);
  const argv = ["attach", "--netns", it.inside.path, "--ifname", "eth0", "--programs", "give", "--bpffs", it.bpffs];
  const dir = ["--dir", it.asked([]).config.programDirs[0] ?? ""];
  assert.is((await remora(...argv, ...dir, "--hook", "xdp")).status, 2);
  const { status, stderr } = await remora(...argv, ...dir, "--hook", "clsact", "--container", "byhand");
  assert.is(status, 0, stderr);
  assert.match(shown(it.inside), /clsact/);
  assert.is((await remora("detach", "byhand", "--bpffs", it.bpffs)).status, 0);
  assert.not.match(shown(it.inside), /clsact/);
});

test.run();
