// SPDX-License-Identifier: Apache-2.0
/** dns-log between a resolver and a server of this test's own, with and without Ethernet headers, and on several CPUs at once. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { laboratory, type Member } from "./laboratory.ts";
import { ethernet, ipv4, udp } from "./packets.ts";
import { bareIpPair, ethernetPair, four, six } from "./pairs.ts";
import { changesUnderLock, runInParallel } from "./parallel.ts";

/** Answers by the name's first label: `missing` is not there, `slow` takes its time, `lost` never is. Else one address. */
const server = `
  const socket = require("dgram").createSocket({ type: "udp6" });
  socket.on("message", (query, { address, port }) => {
    let at = 12;
    const labels = [];
    while (query[at]) { labels.push(query.toString("latin1", at + 1, at + 1 + query[at])); at += 1 + query[at]; }
    const [first] = labels.map((label) => label.toLowerCase());
    const question = query.subarray(12, at + 5);
    const six = question.readUInt16BE(question.length - 4) === 28;
    const data = Buffer.alloc(six ? 16 : 4, 1);
    const missing = first === "missing";
    const header = Buffer.from([query[0], query[1], 0x81, missing ? 0x83 : 0x80, 0, 1, 0, missing ? 0 : 1, 0, 0, 0, 0]);
    const record = Buffer.from([0xc0, 12, 0, six ? 28 : 1, 0, 1, 0, 0, 0, 60, 0, data.length]);
    const answer = Buffer.concat([header, question, ...(missing ? [] : [record, data])]);
    const send = () => socket.send(answer, port, address);
    if (first === "slow") setTimeout(send, 60);
    else if (first !== "lost") send();
  });
  socket.bind(53, "::", () => console.log("listening"));`;

const client = `
  const [server] = process.argv.slice(1);
  (async () => {
    for (const [name, family] of [["WWW.Example.org", 4], ["www.example.org", 6], ["missing.example", 4], ["slow.example", 4], ["lost.example", 6]]) {
      const resolver = new (require("dns").promises.Resolver)({ timeout: name === "lost.example" ? 250 : 20000, tries: 1 });
      resolver.setServers([server]);
      await resolver["resolve" + family](name).catch(() => {});
    }
  })();`;

interface Transaction {
  sequence: number;
  direction: string;
  queries: number;
  latency: number;
  type: number;
  rcode: number;
  answers: number;
  answered: boolean;
  name: string;
  flow: { family: number };
}

/** In order. */
const recorded = (member: Member): Transaction[] =>
  member
    .contents("transactions")
    .map(({ value }) => value as unknown as Transaction)
    .filter(({ sequence }) => sequence > 0)
    .sort((a, b) => a.sequence - b.sequence);

for (const { device, pair } of [
  { device: "veth", pair: ethernetPair },
  { device: "a device without Ethernet headers", pair: bareIpPair },
])
  test(`${device}: what a resolver asks, and what it hears`, async () => {
    using lab = laboratory();
    const [remote, pod] = pair(lab);
    const program = "dns-log";
    const ingress = lab.chain([{ program, entry: "dns_log_ingress" }]);
    const member = ingress.members[0] as Member;
    const egress = lab.chain([{ program, entry: "dns_log_egress", sharing: member }]);
    lab.attach(ingress, pod, "pod0", "ingress");
    lab.attach(egress, pod, "pod0", "egress");
    const child = spawn("ip", ["netns", "exec", remote.name, process.execPath, "-e", server], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(child, "exit");
    try {
      await once(child.stdout, "data");
      pod.exec(process.execPath, "-e", client, four[0]);
      pod.exec(process.execPath, "-e", client, `[${six[0]}]`);
    } finally {
      child.kill();
      await ended;
    }
    const all = recorded(member);
    const of = (family: number) => [
      ["www.example.org", 1, true, 0, 1, family],
      ["www.example.org", 28, true, 0, 1, family],
      ["missing.example", 1, true, 3, 0, family],
      ["slow.example", 1, true, 0, 1, family],
      ["lost.example", 28, false, 0, 0, family],
    ];
    assert.equal(
      all.map(({ name, type, answered, rcode, answers, flow }) => [name, type, answered, rcode, answers, flow.family]),
      [...of(4), ...of(6)],
    );
    assert.ok(all.every(({ direction, queries }) => direction === "REMORA_EGRESS" && queries === 1));
    for (const { name, answered, latency } of all) {
      const least = !answered ? 0 : name === "slow.example" ? 50_000_000 : 1;
      assert.ok(latency >= least && (answered || latency === 0), `${name}: ${latency} ns`);
    }
  });

test("several CPUs at once lose no query", async () => {
  using lab = laboratory();
  const chain = lab.chain([{ program: "dns-log", entry: "dns_log_egress" }]);
  const member = chain.members[0] as Member;
  const query = (id: number, name: string): Buffer => {
    const head = [id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.length];
    return ethernet(ipv4({}, udp({}, Buffer.from([...head, ...Buffer.from(name), 0, 0, 1, 0, 1]))));
  };
  // The same query from all: sent again and again.
  const again = await runInParallel(
    lab,
    chain,
    [1, 1, 1].map((id) => query(id, "same")),
    20,
  );
  const same = recorded(member);
  assert.is(
    same.reduce((sum, { queries }) => sum + queries, 0),
    again,
  );
  assert.ok(same.length <= 3, `${same.length} transactions`);
  // The same id with different names: one transaction for as long as a process runs alone.
  await runInParallel(
    lab,
    chain,
    ["a", "b", "c"].map((name) => query(2, name)),
    20,
  );
  const all = recorded(member);
  const numbers = all.map(({ sequence }) => sequence);
  assert.is(new Set(numbers).size, numbers.length, "no number twice");
  const [{ value }] = member.contents("counts") as unknown as [
    { value: { egress: Record<"queries" | "again", number> } },
  ];
  assert.is(Math.max(...numbers), value.egress.queries, "no number left out");
  assert.is(value.egress.queries + value.egress.again, 2 * again);
});

test("the number of a transaction is under its lock", async () => {
  using lab = laboratory();
  const [program, entry] = ["dns-log", "dns_log_egress"];
  const [member] = lab.chain([{ program, entry }]).members as [Member];
  const question = Buffer.from([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
  const packet = ethernet(ipv4({}, udp({}, question)));
  const changed = await changesUnderLock(lab, {
    member,
    hold: "hold_last",
    knock: "knock_query",
    packet,
    program,
    entry,
  });
  assert.is(changed, 0);
  assert.ok(recorded(member).length >= 100);
});

test.run();
