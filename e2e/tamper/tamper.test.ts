// SPDX-License-Identifier: Apache-2.0
/**
 * What hostile processes inside a pod can do to the chain on its interface: each attempt by each kind of process, and what
 * comes of it. The chain drops what it dropped and counts it, in all rows but those that say otherwise: whoever has CAP_BPF
 * and CAP_NET_ADMIN, or CAP_SYS_ADMIN, in the *initial* user namespace is as good as the node's root.
 */
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../../plugin/errors.ts";
import { directions } from "../../plugin/kernel/port.ts";
import { type Attempt, attempts } from "./attempts.ts";
import { type Attacker, denied, victim } from "./victim.ts";

const people: Record<Attacker, string> = {
  usual: "a container with the usual capabilities",
  netAdmin: "a container with CAP_NET_ADMIN",
  ownUserNamespace: "CAP_SYS_ADMIN in a user namespace of the container's own",
  podUserNamespace: "root of the user namespace that owns the pod's network",
  netAdminAndBpf: "a container with CAP_NET_ADMIN and CAP_BPF of the initial user namespace",
  privileged: "a privileged container",
};

const outcomes = {
  refused: { words: "the kernel refuses it", said: /not permitted|EPERM/, arrives: [0, 5], drops: 5 },
  absent: {
    words: "there is nothing of the kind",
    said: /Cannot find|Parent Qdisc doesn't/,
    arrives: [0, 5],
    drops: 5,
  },
  busy: { words: "what a link holds stays", said: /EBUSY/, arrives: [0, 5], drops: 5 },
  vain: { words: "it may, in vain", said: /^(done\ndone)?$/, arrives: [0, 5], drops: 5 },
  passes: { words: "it may, and GETS PAST THE CHAIN", said: /^done\ndone$/, arrives: [5, 5], drops: 0 },
  breaks: { words: "it may, and the chain drops everything", said: /^done\ndone$/, arrives: [0, 0], drops: 5 },
};
type Outcome = keyof typeof outcomes;

const table: Record<Attempt, Record<Attacker, Outcome>> = {
  "removes the clsact qdisc": row("refused absent refused absent absent absent"),
  "removes the filters": row("refused absent refused absent absent absent"),
  "adds a clsact qdisc with direct-action programs that return OK": row("refused vain refused vain vain vain"),
  "replaces the root qdisc": row("refused vain refused vain vain vain"),
  "takes the interface down and up again": row("refused vain refused vain vain vain"),
  "renames the interface, and back": row("refused vain refused vain vain vain"),
  "sends and receives through a macvlan above the interface": row("refused vain refused vain vain vain"),
  "moves the interface to a network namespace of its own, and back": row("refused refused refused vain refused vain"),
  "puts a TCX program of its own before the chain": row("refused refused refused refused passes passes"),
  "puts a TCX program of its own before the chain's link, by its id": row(
    "refused refused refused refused passes passes",
  ),
  "replaces the chain's first program": row("refused refused refused refused refused busy"),
  "detaches the first program": row("refused busy refused refused busy busy"),
  "detaches the chain's link": row("refused refused refused refused refused passes"),
  "updates the chain's link": row("refused refused refused refused refused passes"),
  "empties the chain's array": row("refused refused refused refused refused breaks"),
};

/** In the order of `people`. */
function row(words: string): Record<Attacker, Outcome> {
  const each = words.split(" ");
  return Object.fromEntries(Object.keys(people).map((who, index) => [who, each[index]])) as Record<Attacker, Outcome>;
}

test("the node keeps bpf(2) from unprivileged processes, which all of this presumes", () => {
  const setting = readFileSync("/proc/sys/kernel/unprivileged_bpf_disabled", "utf8").trim();
  assert.is.not(setting, "0", "sysctl kernel.unprivileged_bpf_disabled=2: with 0, CAP_NET_ADMIN alone loads programs");
});

for (const who of Object.keys(people) as Attacker[])
  for (const attempt of Object.keys(attempts) as Attempt[]) {
    const { words, said, arrives, drops } = outcomes[table[attempt][who]];
    test(`${people[who]} ${attempt}: ${words}`, async () => {
      using it = await victim(who);
      const result = it.attack(attempts[attempt](it));
      assert.match(result.said, said);
      for (const direction of directions) {
        const before = it.counted(direction).dropped;
        assert.equal(await it.send(direction, 5), { denied: arrives[0], allowed: arrives[1] }, direction);
        assert.is(it.counted(direction).dropped - before, drops, direction);
      }
      await it.verbs.del(it.request);
      assert.equal(it.left(), []);
    });
  }

test("a container with CAP_NET_ADMIN deletes its interface: it has no network, CHECK says so, DEL leaves nothing", async () => {
  using it = await victim("netAdmin");
  assert.equal(it.attack("ip link delete eth0"), { status: 0, said: "" });
  try {
    await it.verbs.check(it.request);
    assert.unreachable("CHECK found nothing wrong");
  } catch (error) {
    assert.instance(error, RemoraError);
    assert.is((error as RemoraError).code, code.attachmentDiffers);
  }
  await it.verbs.del(it.request);
  assert.equal(it.left(), []);
});

/** Where the program stands that drops all UDP on egress, and how many of 100 frames get past it. */
const walls = [
  { at: "pod", pass: { "through the queue": 0, "past it (PACKET_QDISC_BYPASS)": 100 } },
  { at: "host", pass: { "through the queue": 0, "past it (PACKET_QDISC_BYPASS)": 0 } },
] as const;

for (const { at, pass } of walls)
  for (const [way, arrives] of Object.entries(pass))
    for (const behind of ["ptp", "bridge"] as const)
      test(`100 frames of a container with CAP_NET_RAW behind ${behind}, sent ${way}: ${arrives} get past an egress program at the ${at}`, async () => {
        const chain = [{ program: "acl", params: { rules: "deny egress udp" }, at }];
        using it = await victim("usual", chain, behind);
        const before = it.counted("egress");
        const queue = way === "through the queue" ? "queue" : "";
        const arrived = await it.arriving(it.peer, 100, () => {
          const sent = it.attack(`frames eth0 ${it.peerMac} 10.98.0.2 10.98.0.1 ${denied} 100 ${queue}`);
          assert.equal(sent, { status: 0, said: "" });
        });
        assert.is(arrived, arrives);
        assert.is(it.counted("egress").dropped - before.dropped, 100 - arrives);
        await it.verbs.del(it.request);
        assert.equal(it.left(), []);
      });

test.run();
