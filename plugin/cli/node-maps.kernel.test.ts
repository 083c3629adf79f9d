// SPDX-License-Identifier: Apache-2.0
/** `remora maps --node` on the real kernel: a deny list that two pods share, changed while packets meet it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { remora } from "../../e2e/lib/pod.ts";
import { type Namespace, type Scratch, scratch } from "../../e2e/lib/scratch.ts";
import { prefixKey } from "../catalog/address.ts";
import { nodeMapPins } from "../chain/pins.ts";
import { createNativeKernel } from "../kernel/native.ts";
import { keepLog, request } from "../verbs/fixture.ts";
import { createVerbs } from "../verbs/index.ts";
import type { Check } from "./checks/check.ts";
import type { ShownNodeMap } from "./node-maps.ts";

/** A node with pods behind it, each with a link of its own to the one outside, `10.99.<n>.1` and `fd00:<n>::1`. */
interface Node {
  bpffs: string;
  directory: string;
  outside: Namespace;
  pods: Namespace[];
  /** Gives a pod an acl that asks the deny list, and takes it off again. */
  attach(pod: number): Promise<void>;
  detach(pod: number): Promise<void>;
  /** `remora maps --node ...`; its page, or what it says on stderr where it fails. */
  maps(...argv: string[]): Promise<string>;
  refused(...argv: string[]): Promise<string>;
  json<T>(...argv: string[]): Promise<T>;
}

let object: Buffer | undefined;

/** Compiled once. */
function acl(): Buffer {
  if (!object) {
    using world = scratch();
    object = readFileSync(world.compile(join(import.meta.dirname, "../../bpf/acl.bpf.c")));
  }
  return object;
}

function node(world: Scratch): Node {
  const outside = world.namespace();
  const pods = [0, 1].map((n) => {
    const pod = world.namespace();
    const addresses = (end: number) => [`10.99.${n}.${end}/24`, `fd00:${n}::${end}/64`];
    world.veth(
      { namespace: outside, ifname: `pod${n}`, addresses: addresses(1) },
      { namespace: pod, ifname: "eth0", addresses: addresses(2) },
    );
    return pod;
  });
  const bpffs = join(world.bpffs(), "remora");
  const directory = join(world.dir, "programs");
  mkdirSync(directory, { mode: 0o755 });
  writeFileSync(join(directory, "acl.bpf.o"), acl(), { mode: 0o644 });
  const run = async (status: number, ...argv: string[]) => {
    const ended = await remora(...argv, "--bpffs", bpffs);
    assert.is(ended.status, status, ended.stderr);
    return ended;
  };
  const maps = (...argv: string[]) => ["maps", "--node", ...argv, "--dir", directory];
  return {
    bpffs,
    directory,
    outside,
    pods,
    async attach(pod) {
      const params = ["--programs", "acl", "--param", "acl.deny_list=true", "--dir", directory];
      await run(0, "attach", "--netns", pods[pod]?.path ?? "", "--ifname", "eth0", ...params);
    },
    async detach(pod) {
      await run(0, "detach", "--netns", pods[pod]?.path ?? "", "--ifname", "eth0");
    },
    maps: async (...argv) => (await run(0, ...maps(...argv))).stdout,
    refused: async (...argv) => (await run(1, ...maps(...argv))).stderr,
    json: async (...argv) => JSON.parse((await run(0, ...maps(...argv, "--json"))).stdout),
  };
}

const denied = ["acl", "denied"] as const;

/** Whether all of a few echo requests are answered, or none, whichever is expected: the other is an error. */
function ping(from: Namespace, to: string, expected: "passes" | "dropped"): void {
  const passes = expected === "passes";
  const script = `ping -q -c 3 -i 0.01 -W ${passes ? 20 : 0.2} ${to}; true`;
  const received = Number(/(\d+) received/.exec(from.exec("sh", "-c", script))?.[1]);
  assert.is(received, passes ? 3 : 0, `${from.name} to ${to}`);
}

/** Prefixes that no packet of these tests has, each a /24 of its own. */
function others(count: number, first = 0): string[] {
  return Array.from({ length: count }, (_, at) => {
    const n = at + first;
    return `${20 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}.0/24`;
  });
}

function list(world: Scratch, name: string, lines: string[]): string {
  const file = join(world.dir, name);
  writeFileSync(file, `# ${name}\n${lines.join("\n")}\n`);
  return file;
}

test("two pods share a list: a prefix added stops traffic of both at once, removed it lets it flow", async () => {
  using world = scratch();
  const it = node(world);
  const meet = (four: "passes" | "dropped", six: "passes" | "dropped") => {
    for (const [n, pod] of it.pods.entries()) {
      ping(pod, `10.99.${n}.1`, four);
      ping(it.outside, `fd00:${n}::2`, six);
    }
  };
  assert.is(await it.maps(), "No map is shared by pods of this node.\n");
  for (const pod of [0, 1]) await it.attach(pod);
  const listState = async () => {
    const { stdout, stderr } = await remora("doctor", "--bpffs", it.bpffs, "--dir", it.directory, "--json");
    assert.is(stderr, "");
    const { checks } = JSON.parse(stdout) as { checks: Check[] };
    return checks.filter(({ check }) => check === "shared list").map(({ state, found }) => `${state}: ${found}`);
  };
  assert.equal(await listState(), ["note: acl denied is empty, pods ask it: it matches nothing"]);
  assert.match(await it.maps(), /^acl +denied +lpm_trie +0 of 262144 +2 interfaces +while it is used$/m);
  meet("passes", "passes");

  const added = await it.maps(...denied, "--add", "10.99.0.0/16");
  assert.is(added, "  + 10.99.0.0/16\nacl denied: 1 added, 0 removed, 1 prefix.\n");
  assert.equal(await listState(), ["ok: acl denied is filled"]);
  meet("dropped", "passes");
  await it.maps(...denied, "--remove", "10.99.0.0/16", "--add", "fd00::/24");
  meet("passes", "dropped");
  const [shown] = (await it.json<{ maps: ShownNodeMap[] }>(...denied)).maps;
  assert.equal([shown?.kept, shown?.attachments], [true, 2]);
  // Each echo request was dropped on its way in.
  assert.equal(shown?.entries, [{ key: "fd00::/24", value: { packets: 6 } }]);
  assert.match(await it.maps(...denied), /^ {2}fd00::\/24: packets=6$/m);

  await it.maps(...denied, "--remove", "fd00::/24");
  meet("passes", "passes");
  assert.match(await it.maps(...denied, "--remove", "fd00::/24"), /0 added, 0 removed, 0 prefixes/);
});

test("a list loaded before the first pod holds for it, and outlives the last one, until it is released", async () => {
  using world = scratch();
  const it = node(world);
  const file = list(world, "deny.txt", ["10.99.0.0/16  # the other side", "2001:db8::/32 ; SBL1", ""]);
  const planned = await it.maps(...denied, "--load", file, "--dry-run");
  assert.match(
    planned,
    /^ {2}\+ 10\.99\.0\.0\/16\n {2}\+ 2001:db8::\/32\nacl denied: 2 would be added, 0 would be removed, 2/,
  );
  assert.is(await it.maps(), "No map is shared by pods of this node.\n");
  await it.maps(...denied, "--load", file);
  // As the node's configuration asks for it, for every pod.
  const verbs = createVerbs({ kernel: () => createNativeKernel(), log: keepLog() });
  const chain = [{ program: "acl", params: { deny_list: true } }];
  const asked = request(it.directory, it.bpffs, { netns: it.pods[0]?.path ?? "", config: { chain } });
  for (const round of [1, 2]) {
    await verbs.add(asked);
    await verbs.check(asked);
    ping(it.outside, "10.99.0.2", "dropped");
    await verbs.del(asked);
    const gc = await remora("gc", "--bpffs", it.bpffs);
    assert.is(gc.status, 0, gc.stderr);
    assert.match(gc.stdout, /acl denied/, "what is kept is said");
    assert.match(await it.maps(), /^acl +denied +lpm_trie +2 of 262144 +0 interfaces +until --release$/m, `${round}`);
  }
  await it.attach(0);
  assert.match(
    await it.maps(...denied, "--release"),
    /it goes with the last pod that uses it; now used by 1 interface/,
  );
  ping(it.outside, "10.99.0.2", "dropped");
  await it.detach(0);
  assert.is(await it.maps(), "No map is shared by pods of this node.\n");
  await it.maps(...denied, "--add", "192.0.2.7");
  assert.match(await it.maps(...denied, "--release"), /^acl denied: gone, as no pod uses it/);
  assert.not.ok(readdirSync(world.bpffs()).includes("remora"));
});

test("a pod whose acl has no deny list needs no map of the node", async () => {
  using world = scratch();
  const it = node(world);
  const pod = it.pods[0]?.path ?? "";
  const chain = ["--programs", "acl", "--param", "acl.rules=deny tcp 25", "--dir", it.directory, "--bpffs", it.bpffs];
  const attached = await remora("attach", "--netns", pod, "--ifname", "eth0", ...chain);
  assert.is(attached.status, 0, attached.stderr);
  assert.is(await it.maps(), "No map is shared by pods of this node.\n");
  ping(it.outside, "10.99.0.2", "passes");
  await it.detach(0);
});

test("100,000 prefixes, replaced by others: what is in both stays, whoever it denies, and counts on", async () => {
  using world = scratch();
  const it = node(world);
  for (const pod of [0, 1]) await it.attach(pod);
  const peer = "10.99.0.1";
  const first = list(world, "first.txt", [...others(60_000), peer, ...others(39_999, 60_000)]);
  assert.is(await it.maps(...denied, "--load", first), "acl denied: 100000 added, 0 removed, 100000 prefixes.\n");
  ping(it.outside, "10.99.0.2", "dropped");
  ping(it.outside, "10.99.1.2", "passes");
  const kernel = createNativeKernel();
  const { fd } = kernel.openPin(nodeMapPins(it.bpffs, "acl").map("denied"));
  const hit = (address: string) => kernel.lookupMap(fd, prefixKey.encode(address)) !== undefined;
  for (const n of [0, 1, 65_535, 65_536, 99_998]) {
    const [prefix = ""] = others(1, n);
    assert.ok(hit(prefix.replace("0/24", "77")), prefix);
  }
  assert.not.ok(hit(others(1, 100_000)[0]?.replace("0/24", "77") ?? ""));

  const second = list(world, "second.txt", [...others(99_999, 50_000), peer]);
  assert.is(await it.maps(...denied, "--load", second), "acl denied: 50000 added, 50000 removed, 100000 prefixes.\n");
  assert.not.ok(hit("20.0.0.77"));
  assert.is(kernel.lookupMap(fd, prefixKey.encode(peer))?.readUInt32LE(), 3);
  kernel.close(fd);
  assert.match(await it.maps(...denied, "--load", second), /: 0 added, 0 removed, 100000/);
});

test("two loads wait for each other; a killed one leaves a list that the next completes", async () => {
  using world = scratch();
  const it = node(world);
  await it.maps(...denied, "--load", list(world, "old.txt", others(1000)));
  const kernel = createNativeKernel();
  const lock = kernel.tryLock(nodeMapPins(it.bpffs, "acl").directory);
  assert.ok(lock !== undefined);
  const count = async () => (await it.json<{ maps: ShownNodeMap[] }>()).maps[0]?.count;
  let done = false;
  const waiting = it.maps(...denied, "--add", "192.0.2.0/24").then((page) => {
    done = true;
    return page;
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.is(done, false);
  assert.is(await count(), 1000);
  kernel.close(lock ?? 0);
  assert.match(await waiting, /1 added, 0 removed, 1001 prefixes/);

  // Half of it is new; the process dies at the 300th addition.
  const file = list(world, "new.txt", others(1000, 500));
  const argv = ["maps", "--node", ...denied, "--load", file, "--bpffs", it.bpffs];
  const script = `
    import { run } from ${JSON.stringify(join(import.meta.dirname, "run.ts"))};
    import { createNativeKernel } from ${JSON.stringify(join(import.meta.dirname, "../kernel/native.ts"))};
    const kernel = createNativeKernel();
    let left = 300;
    const updateMap = (...args) => (left-- > 0 ? kernel.updateMap(...args) : process.kill(process.pid, "SIGKILL"));
    const io = { stdout() {}, stderr: console.error, isTerminal: false, columns: 0 };
    process.exit(await run(${JSON.stringify(argv)}, io, { kernel: async () => ({ ...kernel, updateMap }), root: "/" }));`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const [, signal] = await once(child, "exit");
  assert.is(signal, "SIGKILL");
  assert.is(await count(), 1301);
  assert.match(await it.maps(...denied, "--load", file), /: 200 added, 501 removed, 1000 prefixes/);
});

test("bad input changes nothing, and says what, where and what would be right", async () => {
  using world = scratch();
  const it = node(world);
  await it.maps(...denied, "--add", "192.0.2.7");
  const cases: [argv: string[], ...said: (string | RegExp)[]][] = [
    [
      ["--load", list(world, "bad.txt", ["10.0.0.0/8", "10.0.0.1/8", "nonsense"])],
      'bad.txt:3: "10.0.0.1/8" has bits set past /8; the network is 10.0.0.0/8',
      "nothing was changed",
      'bad.txt:4: "nonsense" is not an IP address',
    ],
    [["--load", join(world.dir, "nowhere")], /nowhere: ENOENT/],
    [["--add", "10.0.0.0/33"], '--add: "10.0.0.0/33" is not a prefix', "0 to 32 bits"],
    [["--remove", "any"], "0.0.0.0/0 is all of IPv4, ::/0 all of IPv6"],
  ];
  for (const [argv, ...said] of cases) {
    const error = await it.refused(...denied, ...argv);
    for (const words of said) assert.ok(typeof words === "string" ? error.includes(words) : words.test(error), error);
  }
  assert.match(
    await it.refused("acl", "denid", "--add", "10.0.0.0/8"),
    /has no map "denid" that pods share, did you mean "denied"/,
  );
  assert.match(
    await it.refused("acl", "decisions", "--add", "10.0.0.0/8"),
    /"decisions" that pods share: it has denied/,
  );
  assert.match(await it.refused("acl", "denid"), /did you mean "acl denied"/);
  for (const [argv, said] of [
    [["--add", "10.0.0.0/8", "--load", "x"], /--load stands alone/],
    [["--add", "10.0.0.0/8", "--remove", "10.0.0.0/8"], /added and removed/],
  ] as const) {
    const { status, stderr } = await remora("maps", "--node", ...denied, ...argv, "--bpffs", it.bpffs);
    assert.is(status, 2);
    assert.match(stderr, said);
  }
  const { status, stderr } = await remora("maps", "web", "acl", "--load", "x", "--bpffs", it.bpffs);
  assert.is(status, 2);
  assert.match(stderr, /remora maps --node PROGRAM MAP --load/);
  assert.match(await it.maps(), /1 of 262144/);
});

test.run();
