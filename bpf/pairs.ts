// SPDX-License-Identifier: Apache-2.0
/** Two namespaces that talk to each other, for tests with real packets: on veth, and on a device without Ethernet headers. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Namespace } from "../e2e/lib/scratch.ts";
import type { Laboratory } from "./laboratory.ts";

// Without an Ethernet header, such source addresses look like an ethertype and the beginning of an IP header, just
// where they would be behind one.
export const four = ["8.0.69.1", "8.0.69.2"] as const;
export const six = ["fd00:9:86dd:6000::1100:1", "fd00:9:86dd:6000::1100:2"] as const;

export type Pair = [a: Namespace, b: Namespace];

/** Two namespaces, each with the device `pod0`. */
export function ethernetPair(lab: Laboratory): Pair {
  const [a, b] = [lab.world.namespace(), lab.world.namespace()];
  const end = (namespace: Namespace, index: 0 | 1) => ({
    namespace,
    ifname: "pod0",
    addresses: [`${four[index]}/24`, `${six[index]}/64`],
  });
  lab.world.veth(end(a, 0), end(b, 1));
  return [a, b];
}

/** The same, where `pod0` is a tunnel that carries bare IP (VXLAN-GPE), as netkit in L3 mode and tun do. */
export function bareIpPair(lab: Laboratory): Pair {
  const pair: Pair = [lab.world.namespace(), lab.world.namespace()];
  const outer = ["192.168.7.1", "192.168.7.2"] as const;
  lab.world.veth(
    { namespace: pair[0], ifname: "wire", addresses: [`${outer[0]}/24`] },
    { namespace: pair[1], ifname: "wire", addresses: [`${outer[1]}/24`] },
  );
  for (const [index, namespace] of pair.entries()) {
    const [own, peer] = index === 0 ? ([0, 1] as const) : ([1, 0] as const);
    const ip = (text: string) => namespace.exec("ip", ...text.split(" "));
    ip("link add pod0 type vxlan external gpe dstport 4790");
    for (const address of [`${four[own]}/24`, `${six[own]}/64 nodad`]) ip(`addr add ${address} dev pod0`);
    ip("link set pod0 mtu 1400 up");
    ip(`route add ${four[peer]}/32 encap ip id 5 dst ${outer[peer]} dev pod0`);
    ip(`-6 route add ${six[peer]}/128 encap ip id 5 dst ${outer[peer]} dev pod0`);
  }
  return pair;
}

/** Sends bytes over TCP; returns how many arrived. */
export async function transfer(from: Namespace, to: Namespace, address: string, bytes: number): Promise<number> {
  const server = spawn(
    "ip",
    [
      ...["netns", "exec", to.name, process.execPath, "-e"],
      `let total = 0;
       const server = require("net").createServer((socket) => {
         socket.on("data", (data) => { total += data.length; });
         socket.on("end", () => { console.log(total); socket.end(); server.close(); });
       }).listen(5001, "::", () => console.log("listening"));`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    const ended = once(server, "close");
    let output = "";
    server.stdout.on("data", (data) => {
      output += data;
    });
    await once(server.stdout, "data");
    from.exec(
      process.execPath,
      "-e",
      `require("net").connect(5001, ${JSON.stringify(address)}, function () { this.end(Buffer.alloc(${bytes})); }).resume();`,
    );
    await ended;
    return Number(output.split("\n")[1]);
  } finally {
    server.kill();
  }
}
