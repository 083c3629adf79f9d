// SPDX-License-Identifier: Apache-2.0
/**
 * A chain at the host's end of a pod's pair through its life: ADD, CHECK, status, a change, and its end by DEL, by gc and with
 * the namespace. The host is a network namespace of the test's own, in which the plugin and the command line are run.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { counterLayout } from "../../plugin/kernel/port.ts";
import { type Namespace, scratch } from "../lib/scratch.ts";

const root = resolve(import.meta.dirname, "../..");

interface Answer {
  status: number | null;
  said: string;
}
interface Node extends Disposable {
  pod: Namespace;
  host: Namespace;
  elsewhere: Namespace;
  /** The program directory. */
  programs: string;
  /** The plugin, called on the host; `on` calls it elsewhere. */
  cni(verb: string, change?: { chain?: object[]; CNI_NETNS?: string; ifname?: string; on?: Namespace }): Answer;
  remora(...argv: string[]): Answer;
  remoraOn(on: Namespace, ...argv: string[]): Answer;
  /** `program@place` of egress. */
  egress(): string[];
  /** What is pinned of attachments. */
  pins(): string[];
  /** Whether the host answers. What is dropped is ICMP alone: neighbours stay known. */
  ping(): boolean;
}

function node(behind: "ptp" | "bridge"): Node {
  const world = scratch();
  try {
    const [pod, host, elsewhere] = [world.namespace(), world.namespace(), world.namespace()];
    const receiver = behind === "bridge" ? "bridge0" : "host0";
    const addresses = ["10.96.0.1/24"];
    world.veth(
      { namespace: pod, ifname: "eth0", addresses: ["10.96.0.2/24"] },
      { namespace: host, ifname: "host0", addresses: behind === "bridge" ? [] : addresses },
    );
    if (behind === "bridge") {
      host.exec("ip", "link", "add", receiver, "type", "bridge");
      host.exec("ip", "link", "set", "host0", "master", receiver);
      host.exec("ip", "link", "set", receiver, "up");
      for (const address of addresses) host.exec("ip", "address", "add", address, "dev", receiver);
    }
    const programs = join(world.dir, "programs");
    mkdirSync(programs, { mode: 0o755 });
    for (const name of ["acl", "count"])
      copyFileSync(join(root, "dist/programs", `${name}.bpf.o`), join(programs, `${name}.bpf.o`));
    copyFileSync(join(programs, "acl.bpf.o"), join(programs, "wall.bpf.o"));
    writeFileSync(join(programs, "wall.yaml"), "at: host\n");
    const bpffs = `${world.bpffs()}/remora`;
    const network = `${bpffs}/podnet`;
    const run = (on: Namespace, argv: string[], env: Record<string, string>, input = ""): Answer => {
      const command = [`--net=${on.path}`, process.execPath, join(root, "plugin/main.ts"), ...argv];
      const child = spawnSync("nsenter", command, {
        encoding: "utf8",
        env: { ...process.env, ...env },
        input,
        timeout: 60_000,
      });
      return { status: child.status, said: `${child.stdout}${child.stderr}` };
    };
    const remoraOn: Node["remoraOn"] = (on, ...argv) => run(on, [...argv, "--bpffs", bpffs], {});
    const remora: Node["remora"] = (...argv) => remoraOn(host, ...argv);
    return {
      pod,
      host,
      elsewhere,
      programs,
      cni(
        verb,
        {
          chain = [{ program: "wall", directions: ["egress"] }, { program: "count" }],
          CNI_NETNS,
          ifname = "eth0",
          on = host,
        } = {},
      ) {
        const interfaces = [{ name: ifname, mac: "02:00:00:00:00:02", sandbox: pod.path }];
        const prevResult = { cniVersion: "1.0.0", interfaces, ips: [] };
        const programDirs = [programs];
        const input = { cniVersion: "1.0.0", name: "podnet", type: "remora", programDirs, chain, bpffs, prevResult };
        const who = { CNI_CONTAINERID: "c1", CNI_IFNAME: ifname, CNI_PATH: "/opt/cni/bin" };
        const env = { CNI_COMMAND: verb, ...who, CNI_NETNS: CNI_NETNS ?? pod.path };
        return run(on, [], env, JSON.stringify(input));
      },
      remora,
      remoraOn,
      egress() {
        const { status, said } = remora("status", "--json");
        assert.is(status, 0, said);
        const [attachment] = JSON.parse(said).attachments;
        return attachment.egress.map((entry: { program: string; at: string }) => `${entry.program}@${entry.at}`);
      },
      pins: () =>
        existsSync(network) ? readdirSync(network).flatMap((name) => readdirSync(join(network, name)).sort()) : [],
      ping: () =>
        spawnSync("nsenter", [`--net=${pod.path}`, "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.96.0.1"]).status ===
        0,
      [Symbol.dispose]: () => world[Symbol.dispose](),
    };
  } catch (error) {
    world[Symbol.dispose]();
    throw error;
  }
}
const done = ({ status, said }: Answer): string => {
  assert.is(status, 0, said);
  return said;
};
const failed = ({ status, said }: Answer): { code: number; msg: string } => {
  assert.is(status, 1, said);
  return JSON.parse(said);
};

for (const behind of ["ptp", "bridge"] as const)
  test(`behind ${behind}: ADD, CHECK, status, a change and DEL`, () => {
    using it = node(behind);
    assert.ok(it.ping());
    done(it.cni("ADD"));
    done(it.cni("CHECK"));
    assert.equal(it.egress(), ["count@pod", "wall@host"]);
    assert.equal(it.pins(), ["g1", "link_egress", "link_host", "link_ingress", "record"]);
    assert.ok(it.ping());

    done(
      it.remora(
        "apply",
        "c1",
        "--without-node-chain",
        "--programs",
        "wall, count",
        "--param",
        "wall.rules=deny egress icmp",
      ),
    );
    done(it.cni("CHECK"));
    assert.not(it.ping());
    done(it.remora("apply", "c1", "--programs", "count"));
    assert.equal(it.egress(), ["count@pod"]);
    assert.equal(it.pins(), ["g3", "link_egress", "link_ingress", "record"]);
    assert.ok(it.ping());
    done(it.cni("CHECK"));

    done(it.remora("apply", "c1", "--programs", "wall, count", "--param", "wall.rules=deny egress icmp"));
    assert.not(it.ping());
    done(it.cni("DEL", { CNI_NETNS: "" }));
    assert.equal(it.pins(), []);
    assert.ok(it.ping());
  });

test("by hand: who has the command line says where a program stands", () => {
  using it = node("ptp");
  const entry = (at: string) => JSON.stringify([{ program: "acl", at, params: { rules: "deny egress icmp" } }]);
  const attach = ["attach", "--netns", it.pod.path, "--ifname", "eth0", "--dir", it.programs, "--container", "c1"];
  for (const [answer, words] of [
    [
      it.remora(...attach, "--programs", entry("host"), "--hook", "clsact"),
      /acl: at: host takes TCX, to stand before everybody else/,
    ],
    [
      it.remoraOn(it.elsewhere, ...attach, "--programs", entry("host")),
      /acl: at: host, and there is no host's end for the egress side to stand at: .* in a third one/,
    ],
  ] as const) {
    assert.is(answer.status, 1);
    assert.match(answer.said, words);
  }
  done(it.remora(...attach, "--programs", entry("host")));
  assert.equal(it.egress(), ["acl@host"]);
  assert.not(it.ping());
  done(it.remora("apply", "c1", "--programs", entry("pod")));
  assert.equal(it.egress(), ["acl@pod"]);
  // The manifest's word is not the last one.
  done(it.remora("apply", "c1", "--programs", '[{"program":"wall","at":"pod"},{"program":"count","at":"host"}]'));
  assert.equal(it.egress(), ["wall@pod", "count@host"]);
  done(it.remora("detach", "c1"));
  assert.ok(it.ping());
});

const kernel = createNativeKernel();

/** Somebody's program, on ingress and before all who are there, that ends nothing. It goes with its descriptors. */
function strangerFirst(namespace: Namespace, ifname: string): Disposable & { id: number } {
  const map = (type: "prog_array" | "percpu_array", valueSize: number) =>
    kernel.createMap({ type, name: "theirs", keySize: 4, valueSize, maxEntries: 1 });
  const maps = [map("prog_array", 4), map("percpu_array", counterLayout.words * 8)] as const;
  const stage = kernel.loadStage({
    object: readFileSync(join(root, "dist/programs/count.bpf.o")),
    name: "stranger",
    entries: [{ function: "count", parameters: [] }],
    position: 0,
    length: 1,
    proceedOn: [-1],
    failurePolicy: "open",
    chain: maps[0],
    counters: maps[1],
    countHead: false,
    reuse: [],
  });
  const { ifindex } = kernel.findInterface(namespace.path, ifname);
  const place = { netns: namespace.path, ifindex, direction: "ingress", before: true } as const;
  const link = kernel.attachTcx({ program: stage.program, ...place });
  return {
    id: stage.programId,
    [Symbol.dispose]() {
      for (const fd of [link, stage.program, ...stage.maps.map((each) => each.fd), ...maps]) kernel.close(fd);
    },
  };
}

test("who comes before the chain at the host's end is named, and a change takes the place again", () => {
  using it = node("ptp");
  done(it.cni("ADD"));
  const behind = (): unknown => JSON.parse(done(it.remora("status", "--json"))).attachments[0].behind;
  const order = (): string | undefined =>
    JSON.parse(it.remora("doctor", "--json").said).checks.find(
      (each: { check: string }) => each.check === "program order",
    )?.found;
  const { ifindex } = kernel.findInterface(it.host.path, "host0");
  /** As the kernel has them: by their functions. */
  const names = (): string[] =>
    kernel.listTcx({ netns: it.host.path, ifindex, direction: "ingress" }).map(({ name }) => name);
  assert.is(behind(), undefined);
  assert.is(order(), undefined);
  using stranger = strangerFirst(it.host, "host0");
  const words = `count (id ${stranger.id})`;
  assert.equal(names(), ["count", "acl_egress"]);
  const { code, msg } = failed(it.cni("CHECK"));
  assert.is(code, 110);
  assert.ok(msg.includes(`not the first any more on ingress of host0: ${words}`), msg);
  assert.equal(behind(), [{ direction: "egress", at: "host", programs: [words] }]);
  assert.ok(done(it.remora("status")).includes(`behind another program on egress of the host's end: ${words}`));
  assert.is(order(), `container c1 eth0: ${words} before the egress chain at the host's end`);

  done(it.remora("apply", "c1", "--programs", ","));
  assert.equal(names(), ["acl_egress", "count"]);
  assert.equal(it.egress(), ["count@pod", "wall@host"]);
  assert.equal(it.pins(), ["g2", "link_egress", "link_host", "link_ingress", "record"]);
  done(it.cni("CHECK"));
  assert.is(behind(), undefined);
  assert.ok(it.ping());

  // In the pod no place is promised: it is said, and no difference.
  using other = strangerFirst(it.pod, "eth0");
  done(it.cni("CHECK"));
  assert.equal(behind(), [{ direction: "ingress", at: "pod", programs: [`count (id ${other.id})`] }]);
  done(it.cni("DEL"));
  assert.equal(it.pins(), []);
  assert.equal(names(), ["count"]);
});

test("a pod that deletes its interface takes the host's end along, and CHECK says so", () => {
  using it = node("ptp");
  const chain = [{ program: "wall", directions: ["egress"], params: { rules: "deny egress icmp" } }];
  done(it.cni("ADD", { chain }));
  assert.not(it.ping());
  it.pod.exec("ip", "link", "delete", "eth0");
  const { code, msg } = failed(it.cni("CHECK", { chain }));
  assert.is(code, 110);
  assert.match(msg, /eth0 is not in/);
  done(it.cni("DEL"));
  assert.equal(it.pins(), []);
});

test("gc takes it when pod and pair are gone", async () => {
  using it = node("bridge");
  done(it.cni("ADD", { chain: [{ program: "wall", directions: ["egress"] }] }));
  assert.equal(it.pins(), ["g1", "link_host", "record"]);
  assert.match(done(it.remora("gc")), /^(?!.*c1)/);
  it.host.exec("ip", "netns", "delete", it.pod.name);
  for (let round = 0; it.host.exec("ip", "-o", "link").includes("host0") && round < 100; round++) await sleep(50);
  assert.match(done(it.remora("gc")), /its interface is gone/);
  assert.equal(it.pins(), []);
});

test("a macvlan, and a pair that leads to another host, are refused, and nothing is attached", () => {
  using it = node("ptp");
  it.pod.exec("ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan");
  for (const [answer, words] of [
    [it.cni("ADD", { ifname: "mv0" }), /^wall: at: host, .* mv0 is a macvlan device/],
    [
      it.cni("ADD", { on: it.elsewhere }),
      /^wall: at: host, .* not in the network namespace of the host, but in a third one/,
    ],
  ] as const) {
    const { code, msg } = failed(answer);
    assert.is(code, 113, msg);
    assert.match(msg, words);
    assert.equal(it.pins(), []);
  }
});

test.run();
