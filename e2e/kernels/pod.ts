// SPDX-License-Identifier: Apache-2.0
/**
 * A pod's life with traffic, through the installation tree, with the hook that `auto` takes on this kernel: what is attached
 * sees packets, and what drops them drops.
 */
import { spawnSync } from "node:child_process";
import { release } from "node:os";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { hasTcx } from "../../plugin/chain/explain.ts";
import { scratch } from "../lib/scratch.ts";
import { executable, result, silence } from "../protocol/executable.ts";
import { annotated, pins, pod } from "../protocol/pod.ts";

test("ADD, traffic, CHECK, DEL: count counts each ping, acl stops what it is told to", () => {
  using world = scratch();
  const place = pod(world);
  const pings = (): boolean =>
    spawnSync("nsenter", [`--net=${place.netns}`, "ping", "-c", "2", "-i", "0.2", "-w", "2", "10.0.0.1"]).status === 0;
  assert.ok(pings(), "before");

  const counted = annotated({ "remora.io/programs": "count" });
  result(place.call("ADD", counted));
  assert.is(place.attached(), 2);
  assert.ok(pings(), "with count");
  silence(place.call("CHECK", counted));
  const status = spawnSync(executable, ["status", "--json", "--bpffs", place.bpffs], { encoding: "utf8" });
  assert.is(status.status, 0, status.stderr);
  const [attachment] = JSON.parse(status.stdout).attachments;
  assert.is(attachment.hook, hasTcx(release()) ? "tcx" : "clsact");
  for (const direction of ["ingress", "egress"]) assert.ok(attachment[direction][0].packets >= 2, direction);
  // As the runtime asks for it once more: by the name alone.
  silence(place.call("DEL", { prevResult: undefined }, { CNI_NETNS: "" }));
  assert.is(place.attached(), 0);
  assert.equal(pins(place.bpffs), []);

  const guarded = annotated({ "remora.io/programs": "acl", "acl.remora.io/rules": "deny icmp any" });
  result(place.call("ADD", guarded));
  assert.not.ok(pings(), "acl denies ICMP");
  silence(
    place.call("GC", { "cni.dev/valid-attachments": [{ containerID: place.env.CNI_CONTAINERID, ifname: "eth0" }] }),
  );
  assert.not.ok(pings(), "it is valid");
  silence(place.call("GC", { "cni.dev/valid-attachments": [] }));
  assert.ok(pings(), "after GC");
  silence(place.call("DEL", guarded));
  const qdiscs = spawnSync("nsenter", [`--net=${place.netns}`, "tc", "qdisc", "show", "dev", "eth0"], {
    encoding: "utf8",
  });
  assert.not.match(qdiscs.stdout, /clsact/);
  assert.equal(pins(place.bpffs), []);
});

test.run();
