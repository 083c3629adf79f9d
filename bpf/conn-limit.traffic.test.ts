// SPDX-License-Identifier: Apache-2.0
/** conn-limit between real sockets, on all CPUs at once. */
import { setTimeout as wait } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Chain, type Laboratory, laboratory } from "./laboratory.ts";
import { Peer, until } from "./peer.ts";

const addresses = {
  pod: ["10.77.0.1", "fd00:77::1"],
  remotes: [
    ["10.77.0.2", "fd00:77::2"],
    ["10.77.0.3", "fd00:77::3"],
  ],
} as const;

/** A pod with the program in both directions, and a namespace with two addresses of each family beside it. */
function scene(lab: Laboratory, params: Record<string, string>) {
  const [remote, pod] = [lab.world.namespace(), lab.world.namespace()];
  const sized = (list: readonly string[]) => list.map((address) => `${address}/${address.includes(":") ? 64 : 24}`);
  lab.world.veth(
    { namespace: remote, ifname: "pod0", addresses: sized(addresses.remotes.flat()) },
    { namespace: pod, ifname: "pod0", addresses: sized(addresses.pod) },
  );
  const program = "conn-limit";
  const ingress = lab.chain([{ program, entry: "conn_limit_ingress", params }]);
  const sharing = ingress.members[0];
  if (!sharing) throw new Error("a chain of one has a member");
  const egress = lab.chain([{ program, entry: "conn_limit_egress", params, sharing }]);
  lab.attach(ingress, pod, "pod0", "ingress");
  lab.attach(egress, pod, "pod0", "egress");
  return { remote, pod, chain: ingress };
}

const server = `
  const server = require("net").createServer({ allowHalfOpen: false }, (socket) => socket.on("error", () => {}).resume());
  server.listen({ port: 80, host: "::", backlog: 4096 }, () => console.log("listening"));
  process.stdin.resume();`;

/**
 * "open ADDRESS FROM N": tries to open N connections; "count": how many it has;
 * "close": ends all; "churn ADDRESS FROM N": opens and ends N, at most eight at a time, says how many were let in.
 */
const client = `
  const net = require("net");
  const sockets = new Set();
  const connect = (host, localAddress, done) => {
    const socket = net.connect({ host, localAddress, port: 80 });
    const timer = setTimeout(() => socket.destroy(), 100000);
    socket.on("error", () => {});
    socket.on("connect", () => done(socket));
    socket.on("close", () => { clearTimeout(timer); sockets.delete(socket); });
    sockets.add(socket);
    return socket;
  };
  const commands = {
    open(host, from, count, say) {
      for (let i = 0; i < count; i++) connect(host, from, () => {});
      say("opening");
    },
    count(a, b, c, say) {
      say([...sockets].filter((socket) => socket.readyState === "open").length);
    },
    close(a, b, c, say) {
      const all = [...sockets];
      let left = all.length;
      for (const socket of all) {
        socket.on("close", () => { if (--left === 0) say("closed"); });
        if (socket.connecting) socket.destroy(); else socket.end();
      }
      if (!left) say("closed");
    },
    churn(host, from, count, say) {
      let begun = 0, passed = 0, running = 0;
      const more = () => {
        while (running < 8 && begun < count) {
          begun++; running++;
          const socket = connect(host, from, () => { passed++; begun % 2 ? socket.end() : socket.resetAndDestroy(); });
          socket.setTimeout(300, () => socket.destroy());
          socket.on("close", () => { running--; running || begun < count ? more() : say(passed); });
        }
        if (!running && begun === count) { begun++; say(passed); }
      };
      more();
    },
  };
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    const [command, host, from, count] = line.split(" ");
    commands[command](host, from, Number(count), (answer) => console.log(answer));
  });
  console.log("ready");`;

/** What the program's maps say: open connections by the pod's account, by records, and by the remotes' accounts. */
function counted(lab: Laboratory, chain: Chain) {
  const map = (name: string) => {
    const found = chain.members[0]?.stage.maps.find((each) => each.name === name);
    if (!found) throw new Error(`there is no map ${name}`);
    return lab.kernel.mapEntries(found.fd, 20_000).entries;
  };
  const open = ({ value }: { value: Buffer }) => value.readUInt32LE(4); // behind the lock
  const sum = (name: string) => map(name).reduce((total, entry) => total + open(entry), 0);
  return {
    pod: sum("pod"),
    records: map("connections").length,
    remotes: sum("remotes"),
    accounts: map("remotes").length,
  };
}

test("of many that knock at once, just as many get in as may; they free their places", async () => {
  using lab = laboratory();
  const { remote, pod, chain } = scene(lab, { max: "30", max_per_remote: "20" });
  await using listening = new Peer(pod, server);
  await using first = new Peer(remote, client);
  await using second = new Peer(remote, client);
  await Promise.all([listening, first, second].map((peer) => peer.line()));
  for (let round = 0; round < 2; round++) {
    await Promise.all([
      first.ask(`open ${addresses.pod[0]} ${addresses.remotes[0][0]} 60`),
      second.ask(`open ${addresses.pod[1]} ${addresses.remotes[1][1]} 60`),
    ]);
    const open = async () => (await Promise.all([first.ask("count"), second.ask("count")])).map(Number);
    const all = async () => (await open()).reduce((sum, count) => sum + count);
    await until(all, 30);
    // What was refused knocks again after a second.
    await wait(1300);
    const [a = 0, b = 0] = await open();
    assert.is(a + b, 30);
    assert.ok(a <= 20 && b <= 20, `${a} and ${b} of 20 each`);
    assert.equal(counted(lab, chain), { pod: 30, records: 30, remotes: 30, accounts: 2 });
    await Promise.all([first.ask("close"), second.ask("close")]);
    await until(() => counted(lab, chain), { pod: 0, records: 0, remotes: 0, accounts: 0 });
  }
});

test("thousands that come and go on all CPUs leave nothing counted", async () => {
  using lab = laboratory();
  const { remote, pod, chain } = scene(lab, { max: "15", max_per_remote: "8" });
  await using listening = new Peer(pod, server);
  await using first = new Peer(remote, client);
  await using second = new Peer(remote, client);
  await Promise.all([listening, first, second].map((peer) => peer.line()));
  const passed = await Promise.all([
    first.ask(`churn ${addresses.pod[0]} ${addresses.remotes[0][0]} 800`),
    second.ask(`churn ${addresses.pod[1]} ${addresses.remotes[1][1]} 800`),
  ]);
  assert.ok(
    passed.every((count) => Number(count) > 100),
    `${passed.join(" and ")} of 800 got in`,
  );
  await until(() => counted(lab, chain), { pod: 0, records: 0, remotes: 0, accounts: 0 });
});

test.run();
