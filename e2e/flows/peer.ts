// SPDX-License-Identifier: Apache-2.0
/**
 * Traffic of which a test knows every byte. Runs in a namespace of the test:
 *
 *   peer.ts serve ADDRESS                     TCP on 8080, DNS over UDP on 53, until it is killed; says "ready" on stdout
 *   peer.ts send ADDRESS BYTES                sends so many over TCP, ends, and reads what comes back
 *   peer.ts refused ADDRESS                   tries a TCP port where nobody listens
 *   peer.ts ask ADDRESS TYPE NAME             asks for a name, once
 *
 * The server answers BYTES received with `reply` bytes, names in `there.test` with one record, `silent.test` not at all,
 * and others with NXDOMAIN.
 */
import { createSocket } from "node:dgram";
import { Resolver } from "node:dns";
import { connect, createServer } from "node:net";

/** Bytes that the server sends back over TCP. */
export const reply = 30_000;
export const tcpPort = 8080;

const [role, address = "", ...rest] = process.argv.slice(2);
if (role === "serve") serve();
else if (role === "send") send(Number(rest[0]));
else if (role === "refused") connect(81, address).on("error", () => {});
else if (role === "ask") ask(rest[0] ?? "A", rest[1] ?? "");

function serve(): void {
  const names = createSocket(address.includes(":") ? "udp6" : "udp4");
  names.on("message", (query, from) => {
    const answer = answerTo(query);
    if (answer) names.send(answer, from.port, from.address);
  });
  const streams = createServer({ allowHalfOpen: true }, (socket) => {
    socket.resume();
    socket.on("error", () => {});
    socket.on("end", () => socket.end(Buffer.alloc(reply)));
  });
  names.bind(53, address, () => streams.listen(tcpPort, address, () => process.stdout.write("ready\n")));
}

/** The query's header and question again, with the answer's flags, and a record where there is one. */
function answerTo(query: Buffer): Buffer | undefined {
  let end = 12;
  const labels: string[] = [];
  for (let length = query[end] ?? 0; length > 0; length = query[end] ?? 0) {
    labels.push(query.toString("latin1", end + 1, end + 1 + length));
    end += length + 1;
  }
  const name = labels.join(".").toLowerCase();
  if (name.endsWith("silent.test")) return undefined;
  const found = name.endsWith("there.test");
  const out = Buffer.from(query.subarray(0, end + 5));
  out.writeUInt16BE(found ? 0x8180 : 0x8183, 2);
  out.writeUInt16BE(1, 4);
  out.writeUInt16BE(found ? 1 : 0, 6);
  out.writeUInt32BE(0, 8);
  const record = Buffer.from("c00c0001000100000e100004c0000207", "hex"); // the name again, A, IN, an hour, 192.0.2.7
  return found ? Buffer.concat([out, record]) : out;
}

function send(bytes: number): void {
  const socket = connect(tcpPort, address);
  socket.on("error", (error) => {
    throw error;
  });
  socket.on("connect", () => socket.end(Buffer.alloc(bytes)));
  socket.resume();
}

function ask(type: string, name: string): void {
  const resolver = new Resolver({ tries: 1, timeout: name.endsWith("silent.test") ? 300 : 20_000 });
  resolver.setServers([address]);
  resolver.resolve(name, type, () => {});
}
