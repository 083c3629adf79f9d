// SPDX-License-Identifier: Apache-2.0
/** DNS transactions of a pod, as dns-log's map holds them (bpf/include/remora/flows.h). */

import type { Fd, KernelPort } from "../kernel/port.ts";
import { type Endpoint, Layout, typesOf } from "./layout.ts";

/** The program, and its map. */
export const dnsLog = { program: "dns-log", transactions: "transactions" } as const;

export interface Transaction {
  /** 1, 2, ...: in the order in which the queries were first seen. */
  sequence: number;
  /** Milliseconds since the epoch, with fractions: when the query was first seen. */
  asked: number;
  client: Endpoint;
  server: Endpoint;
  /** IANA's number of the protocol below. */
  protocol: number;
  /** `egress`: the pod asked. */
  direction: "ingress" | "egress";
  /** How often the query was seen. */
  queries: number;
  id: number;
  name: string;
  /** `A`, `AAAA`, ...; `TYPE65280` where it has no name here (RFC 3597). */
  type: string;
  class: string;
  /** Undefined while it is not answered. */
  answer: { latencyMs: number; rcode: string; records: number; truncated: boolean } | undefined;
}

/** https://www.iana.org/assignments/dns-parameters */
const types: Record<number, string> = {
  ...{ 1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV" },
  ...{ 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 52: "TLSA" },
  ...{ 64: "SVCB", 65: "HTTPS", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA" },
};
const classes: Record<number, string> = { 1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY" };
const rcodes: Record<number, string> = {
  ...{ 0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED" },
  ...{ 6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE" },
};

const ingress = 1; // enum remora_direction

/**
 * Makes a reader of a map of transactions; the oldest comes first. `clock` and errors as of `flowReader`.
 */
export function dnsReader(kernel: KernelPort, map: Fd, clock: (nanoseconds: number) => number): () => Transaction[] {
  const { value } = typesOf(kernel, map, dnsLog.program);
  const layout = new Layout(value, dnsLog.program);
  const ends = layout.flow("flow.");
  const numbers = layout.numbers(["sequence", "asked", "latency", "direction", "queries"]);
  const message = layout.numbers(["id", "type", "class", "answers", "rcode", "answered", "truncated"]);
  const name = layout.text("name");

  return () => {
    const { count, values } = kernel.readMap(map);
    const transactions: Transaction[] = [];
    for (let slot = 0; slot < count; slot++) {
      const at = slot * value.size;
      const { sequence, asked, latency, direction, queries } = numbers(values, at);
      if (sequence === 0) continue; // empty, or being written
      const { id, type, class: kind, answers, rcode, answered, truncated } = message(values, at);
      const { source, destination, protocol } = ends(values, at);
      transactions.push({
        sequence,
        asked: clock(asked),
        client: source,
        server: destination,
        protocol,
        direction: direction === ingress ? "ingress" : "egress",
        queries,
        id,
        name: name(values, at),
        type: types[type] ?? `TYPE${type}`,
        class: classes[kind] ?? `CLASS${kind}`,
        answer:
          answered === 0
            ? undefined
            : {
                latencyMs: latency / 1e6,
                rcode: rcodes[rcode] ?? `RCODE${rcode}`,
                records: answers,
                truncated: truncated !== 0,
              },
      });
    }
    return transactions.sort((a, b) => a.sequence - b.sequence);
  };
}
