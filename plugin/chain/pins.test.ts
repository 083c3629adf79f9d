// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import { RemoraError } from "../errors.ts";
import {
  attachmentName,
  attachmentOf,
  belongsInAttachment,
  decodeName,
  encodeName,
  networkDirectory,
  pinsOf,
  requireInside,
  rootOf,
} from "./pins.ts";

const id = { network: "k8s.pod-network", containerId: "ab.c_d-1", ifname: "eth0.100" };

test("names hold no dot, no slash, no colon, and come back", () => {
  for (const text of ["plain", "a.b", "..", ".", "a/b", "a:b", "a%2eb", "ünïcode", "~", "-", "a b\n"]) {
    const name = encodeName(text);
    assert.not.match(name, /[./:~]/, text);
    assert.is(decodeName(name), text);
  }
});

test("different texts never share a name", () => {
  assert.is.not(encodeName("a.b"), encodeName("a%2eb"));
  assert.is.not(encodeName("x".repeat(300)), encodeName(`${"x".repeat(300)}y`));
});

test("a name that is too long is cut and carries a digest", () => {
  const name = encodeName("x.".repeat(200));
  assert.ok(name.length <= 255);
  assert.match(name, /~[0-9a-f]{64}$/);
  assert.is(decodeName(name), undefined);
});

test("what encodeName did not make is not decoded", () => {
  for (const name of ["", "a.b", "%2", "%zz", "%2E", "%61", "a~b", "%ff"])
    assert.is(decodeName(name), undefined, JSON.stringify(name));
});

test("the layout", () => {
  const pins = pinsOf("/sys/fs/bpf/remora/", id);
  assert.is(pins.root, "/sys/fs/bpf/remora");
  assert.is(pins.network, "/sys/fs/bpf/remora/k8s%2epod-network");
  assert.is(pins.network, networkDirectory("/sys/fs/bpf/remora", id.network));
  assert.is(pins.directory, "/sys/fs/bpf/remora/k8s%2epod-network/ab%2ec_d-1:eth0%2e100");
  assert.is(pins.record, `${pins.directory}/record`);
  assert.is(pins.link("egress"), `${pins.directory}/link_egress`);
  const ingress = pins.direction(3, "ingress");
  assert.is(ingress.chain, `${pins.directory}/g3/ingress/chain`);
  assert.is(ingress.counters, `${pins.directory}/g3/ingress/counters`);
  assert.is(ingress.map(7, ".bss"), `${pins.directory}/g3/ingress/maps/7/%2ebss`);
});

test("an attachment is known again by its folder's name", () => {
  assert.equal(attachmentOf(encodeName(id.network), attachmentName(id)), id);
  const long = { ...id, containerId: "f.".repeat(500), ifname: ".".repeat(15) };
  assert.ok(attachmentName(long).length <= 255);
  const found = attachmentOf(encodeName(id.network), attachmentName(long));
  assert.is(found?.ifname, long.ifname);
  assert.match(found?.containerId ?? "", /~[0-9a-f]{64}$/);
});

test("other people's folders are not taken for ours", () => {
  for (const name of ["globals", "tc", "a:", ":eth0", "a.b:eth0", "a:eth0:x", "a~b:eth0", "%61:eth0"])
    assert.is(attachmentOf("net", name), undefined, name);
  for (const name of ["record", "link_ingress", "link_egress", "link_host", "g1", "g12", "trace"])
    assert.ok(belongsInAttachment(name));
  for (const name of ["g0", "g", "links", "link_", "recorder", "cilium_calls"]) assert.not(belongsInAttachment(name));
});

test("the root is an absolute path, and no removal leaves it", () => {
  for (const bpffs of ["", "/", "//", "remora", "./x", "/.."])
    assert.throws(
      () => rootOf(bpffs),
      (error: unknown) => error instanceof RemoraError && error.code === 7,
    );
  requireInside("/bpf/remora", "/bpf/remora/net/a:eth0");
  for (const path of ["/bpf/remora", "/bpf/remora/", "/bpf/remora/../x", "/bpf/remorax", "/bpf", "/bpf/remora/a/"])
    assert.throws(() => requireInside("/bpf/remora", path), /refuses/, path);
});

test.run();
