// SPDX-License-Identifier: Apache-2.0
/** What programs remember goes on through an upgrade: a token bucket nearly empty, a table of flows. */
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { ShownMap } from "../../plugin/cli/maps.ts";
import { remora } from "../lib/pod.ts";
import { run, scratch } from "../lib/scratch.ts";

const fixtures = join(import.meta.dirname, "fixtures");

function pod() {
  const world = scratch();
  const [inside, peer] = [world.namespace(), world.namespace()];
  world.veth(
    { namespace: inside, ifname: "eth0", addresses: ["10.78.0.2/24"] },
    { namespace: peer, ifname: "peer0", addresses: ["10.78.0.1/24"] },
  );
  // Datagrams that wait for an address to be resolved are few: none of ours may be among those dropped.
  peer.exec("ping", "-c", "1", "-W", "5", "10.78.0.2");
  const directory = join(world.dir, "programs");
  mkdirSync(directory, { mode: 0o755 });
  const datagrams = join(world.dir, "datagrams");
  run("cc", "-O2", "-o", datagrams, join(fixtures, "datagrams.c"));
  const bpffs = `${world.bpffs()}/remora`;
  const done = async (...argv: string[]): Promise<string> => {
    const { status, stdout, stderr } = await remora(...argv, "--bpffs", bpffs);
    assert.is(status, 0, stderr);
    return stdout;
  };
  const map = async (name: string): Promise<NonNullable<ShownMap["entries"]>> => {
    const { maps } = JSON.parse(await done("maps", "c", "state", name, "--json")) as { maps: ShownMap[] };
    return maps[0]?.entries ?? [];
  };
  return {
    /** Puts a version of the program in place and gives it to the pod. */
    async run(version: number, flows = 1024, ...more: string[]): Promise<void> {
      const object = world.compile(join(fixtures, "state.bpf.c"), {
        flags: [`-DVERSION=${version}`, `-DFLOWS=${flows}`, ...more],
      });
      copyFileSync(object, join(directory, "state.bpf.o"));
      const first = version === 1 ? ["attach", "--netns", inside.path, "--ifname", "eth0", "--container"] : ["apply"];
      await done(...first, "c", "--programs", "state", "--dir", directory);
    },
    send: (port: number, count: number) => peer.exec(datagrams, "10.78.0.2", String(port), String(count)),
    async tokensSpent(): Promise<number> {
      return Number((await map("spent"))[0]?.value ?? 0);
    },
    /** Packets by source port. */
    async flows(): Promise<Record<number, number>> {
      const swap = (port: number) => ((port & 0xff) << 8) | (port >> 8);
      return Object.fromEntries(
        (await map("flows")).map(({ key, value }) => [swap((key as { ports: number[] }).ports[0] ?? 0), Number(value)]),
      );
    },
    async versions(): Promise<unknown> {
      const [entry] = await map(".bss");
      return (entry?.value as { versions?: unknown } | undefined)?.versions;
    },
    async dropped(): Promise<number> {
      return JSON.parse(await done("status", "--json")).attachments[0].ingress[0].ended.shot;
    },
    [Symbol.dispose]: () => world[Symbol.dispose](),
  };
}

test("a token bucket nearly empty before an upgrade is nearly empty after it; flows stay known", async () => {
  using it = pod();
  await it.run(1);
  it.send(4000, 5);
  it.send(4001, 3);
  assert.is(await it.tokensSpent(), 8);
  await it.run(2);
  assert.is(await it.tokensSpent(), 8, "of ten");
  assert.equal(await it.flows(), { 4000: 5, 4001: 3 });
  it.send(4000, 5);
  assert.is(await it.tokensSpent(), 10);
  assert.is(await it.dropped(), 3);
  assert.equal(await it.flows(), { 4000: 10, 4001: 3 });
  assert.equal(await it.versions(), 1 << 2, "variables are the new object's");
});

test("a map that is defined otherwise begins empty, beside others that stay", async () => {
  using it = pod();
  await it.run(1);
  it.send(4000, 9);
  await it.run(2, 2048);
  assert.equal(await it.flows(), {});
  assert.is(await it.tokensSpent(), 9);
  it.send(4002, 4);
  assert.equal(await it.flows(), { 4002: 4 });
  assert.is(await it.dropped(), 3);
});

test("a map whose keys have the same size and other places in them begins empty as well", async () => {
  using it = pod();
  await it.run(1);
  it.send(4000, 2);
  await it.run(2, 1024, "-DSWAPPED");
  assert.equal(await it.flows(), {});
  it.send(4003, 1);
  assert.equal(await it.flows(), { 4003: 1 });
  assert.is(await it.tokensSpent(), 3);
});

test.run();
