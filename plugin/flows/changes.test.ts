// SPDX-License-Identifier: Apache-2.0
/** What becomes of flows: their states, what changed between two looks, and how that is exported. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Changes, exported } from "./changes.ts";
import { type Flow, type FlowSide, icmpOf, stateOf } from "./flow.ts";

const side = (packets: number, tcpFlags = 0): FlowSide => ({
  packets,
  bytes: packets * 114,
  ipBytes: packets * 100,
  tcpFlags,
  retransmissions: 0,
  dropped: 0,
});
const flow: Flow = {
  key: "a",
  protocol: 6,
  local: { address: Buffer.from([10, 0, 0, 2]), port: 40000 },
  remote: { address: Buffer.from([192, 0, 2, 9]), port: 443 },
  initiator: "local",
  first: 1_790_000_000_000.25,
  last: 1_790_000_001_000.75,
  sent: side(3, 0x12),
  received: side(2, 0x12),
  connections: 1,
  remoteRtt: undefined,
  podRtt: undefined,
  droppedBy: "",
};
const [fin, syn, rst, ack] = [1, 2, 4, 16];

test("a flow's state is what its flags say", () => {
  const table: [Partial<Flow>, string][] = [
    [{}, "open"],
    [{ sent: side(1, syn), received: side(0) }, "oneway"],
    [{ sent: side(1, syn), received: side(1, rst | ack) }, "reset"],
    [{ sent: side(9, rst), received: side(0) }, "reset"],
    [{ sent: side(3, syn | fin) }, "closing"],
    [{ sent: side(3, syn | fin), received: side(3, syn | fin) }, "closed"],
    [{ sent: side(3, syn | fin), received: side(3, syn | fin), connections: 2 }, "several"],
    [{ protocol: 17, sent: side(1, rst | fin), received: side(1, fin) }, "open"],
    [{ protocol: 17, sent: side(0), received: side(4) }, "oneway"],
  ];
  for (const [parts, state] of table) assert.is(stateOf({ ...flow, ...parts }), state);
});

test("ICMP has its type and code where the destination's port would be", () => {
  assert.is(icmpOf(flow), undefined);
  const echo = { ...flow, protocol: 1, local: { ...flow.local, port: 0 }, remote: { ...flow.remote, port: 0x0301 } };
  assert.equal(icmpOf(echo), { type: 3, code: 1 });
  assert.equal(icmpOf({ ...echo, protocol: 58, initiator: "remote", local: { ...flow.local, port: 0x8000 } }), {
    type: 128,
    code: 0,
  });
});

test("a look tells what is new since the one before", () => {
  const changes = new Changes();
  const other = { ...flow, key: "b", protocol: 17 };
  const told = (flows: Flow[]) =>
    changes
      .next(flows)
      .map(({ event, flow: { key }, sent, received, since }) => [event, key, sent.packets, received.ipBytes, since]);
  assert.equal(told([flow, other]), [
    ["new", "a", 3, 200, flow.first],
    ["new", "b", 3, 200, flow.first],
  ]);
  assert.equal(told([flow, other]), []);
  const later = { ...flow, last: flow.last + 500, sent: side(7, 0x12) };
  assert.equal(told([later, other]), [["update", "a", 4, 0, flow.last]]);
  const ended = { ...later, last: flow.last + 900, sent: side(8, 0x13), received: side(3, 0x13) };
  assert.equal(told([ended]), [["end", "a", 1, 100, later.last]]);
  // What was forgotten and came again is new, whatever its counts; so are the same ports with another beginning.
  assert.equal(told([ended, other]), [["new", "b", 3, 200, flow.first]]);
  assert.equal(told([ended, { ...other, first: flow.first + 5000, sent: side(9) }]), [
    ["new", "b", 9, 200, flow.first + 5000],
  ]);
});

test("a change is exported from its initiator's side, and says why it was written", () => {
  const [change] = new Changes().next([flow]);
  assert.ok(change);
  const out = exported(change, flow.last + 1000);
  assert.equal(out, {
    source: flow.local.address,
    destination: flow.remote.address,
    sourcePort: 40000,
    destinationPort: 443,
    protocol: 6,
    start: 1_790_000_000_000,
    end: 1_790_000_001_000,
    forward: { packets: 3, octets: 300, dropped: 0, status: "forwarded", tcpFlags: 0x12 },
    backward: { packets: 2, octets: 200, dropped: 0, status: "forwarded", tcpFlags: 0x12 },
    reason: "active",
    direction: "egress",
  });
  assert.is(exported(change, flow.last + 61_000).reason, "idle");
  assert.is(exported({ ...change, event: "end" }, flow.last).reason, "ended");
  const inbound = exported({ ...change, flow: { ...flow, initiator: "remote" } }, flow.last);
  assert.equal(
    [inbound.source, inbound.sourcePort, inbound.destinationPort, inbound.forward.packets, inbound.direction],
    [flow.remote.address, 443, 40000, 2, "ingress"],
  );
});

test("what was dropped is exported, and why, where all of a record's packets were", () => {
  const table: [sent: Partial<FlowSide>, program: string, status: string][] = [
    [{ packets: 0 }, "", "unknown"],
    [{ packets: 3, dropped: 2 }, "acl", "forwarded"],
    [{ packets: 3, dropped: 3 }, "acl", "aclDenied"],
    [{ packets: 3, dropped: 3 }, "rate-limit", "policed"],
    [{ packets: 3, dropped: 3 }, "conn-limit", "policed"],
    [{ packets: 3, dropped: 3 }, "guard", "spoofed"],
    [{ packets: 3, dropped: 3 }, "somebody's", "dropped"],
    // Counted before it was known that the last of them was dropped.
    [{ packets: 0, dropped: 1 }, "toString", "dropped"],
  ];
  for (const [parts, droppedBy, status] of table) {
    const sent = { ...side(0), ...parts };
    const [change] = new Changes().next([{ ...flow, sent, droppedBy }]);
    assert.ok(change);
    const { forward, backward } = exported(change, flow.last);
    assert.equal([forward.dropped, forward.status, backward.status], [sent.dropped, status, "forwarded"]);
  }
});

test.run();
