// SPDX-License-Identifier: Apache-2.0
/** What a hostile process inside a pod tries against the chain on its interface, each as a shell script. */
import type { Direction } from "../../plugin/kernel/port.ts";
import type { Victim } from "./victim.ts";

const both = (script: (direction: Direction) => string): string => `${script("ingress")} && ${script("egress")}`;
const hostile = (attempt: string) => (it: Victim) =>
  both((direction) => `hostile ${attempt} eth0 ${direction} ${it.ids(direction)}`);

export const attempts = {
  // ---- netlink
  "removes the clsact qdisc": () => "tc qdisc delete dev eth0 clsact",
  "removes the filters": () => both((direction) => `tc filter delete dev eth0 ${direction}`),
  "adds a clsact qdisc with direct-action programs that return OK": () =>
    // Classic BPF, which takes no CAP_BPF: `ret #0`.
    `tc qdisc add dev eth0 clsact && ${both((direction) => `tc filter add dev eth0 ${direction} prio 1 bpf da bytecode '1,6 0 0 0'`)}`,
  "replaces the root qdisc": () => "tc qdisc replace dev eth0 root pfifo limit 100",
  "takes the interface down and up again": () => "ip link set eth0 down && ip link set eth0 up",
  "renames the interface, and back": () =>
    "ip link set eth0 down && ip link set eth0 name other && ip link set other name eth0 && ip link set eth0 up",
  "sends and receives through a macvlan above the interface": () =>
    "ip link add link eth0 name above0 type macvlan mode passthru && ip address delete 10.98.0.2/24 dev eth0 && " +
    "ip link set above0 up && ip address add 10.98.0.2/24 dev above0",
  "moves the interface to a network namespace of its own, and back": () =>
    "unshare --net sh -c 'nsenter --net=/proc/$PPID/ns/net ip link set eth0 netns $$ && ip link set eth0 netns $PPID' && " +
    "ip link set eth0 up && ip address add 10.98.0.2/24 dev eth0",
  // ---- bpf(2)
  "puts a TCX program of its own before the chain": hostile("before"),
  "puts a TCX program of its own before the chain's link, by its id": hostile("relative"),
  "replaces the chain's first program": hostile("replace"),
  "detaches the first program": hostile("detach"),
  "detaches the chain's link": hostile("unlink"),
  "updates the chain's link": hostile("relink"),
  "empties the chain's array": hostile("empty"),
} satisfies Record<string, (it: Victim) => string>;
export type Attempt = keyof typeof attempts;
