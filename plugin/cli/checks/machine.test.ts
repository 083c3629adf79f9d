// SPDX-License-Identifier: Apache-2.0
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  checkBpffs,
  checkBtf,
  checkCapabilities,
  checkJit,
  checkMemlock,
  checkRelease,
  releaseNumbers,
} from "./machine.ts";

test("release numbers", () => {
  assert.equal(releaseNumbers("6.18.44-fc-v669\n"), [6, 18]);
  assert.equal(releaseNumbers("5.10"), [5, 10]);
  assert.equal(releaseNumbers("unknown"), [0, 0]);
  assert.equal(releaseNumbers(undefined), [0, 0]);
});

for (const [release, architecture, state] of [
  ["6.18.44", "x86_64", "ok"],
  ["6.6.0", "x86_64", "ok"],
  ["6.5.13", "x86_64", "note"],
  ["5.10.0", "x86_64", "note"],
  ["5.9.16", "x86_64", "missing"],
  ["5.10.0", "aarch64", "missing"],
  ["6.1.0", "aarch64", "note"],
  [undefined, "x86_64", "missing"],
] as const) {
  test(`Linux ${release} on ${architecture}: ${state}`, () => {
    const check = checkRelease(release, architecture);
    assert.is(check.state, state);
    assert.is(check.remedy === undefined, state === "ok");
  });
}

test("capabilities: all of root's, and each that is lacking is named", () => {
  assert.is(checkCapabilities("Name:\tnode\nCapEff:\t000001fffeffffff\n").state, "ok");
  const none = checkCapabilities("CapEff:\t0000000000000000\n");
  assert.is(none.state, "missing");
  assert.is(none.found, "CAP_NET_ADMIN and CAP_SYS_ADMIN lacking");
  assert.is(checkCapabilities("CapEff:\t0000000000001000\n").found, "CAP_SYS_ADMIN lacking");
  assert.is(checkCapabilities(undefined).state, "missing");
});

test("the JIT", () => {
  assert.is(checkJit("1\n").state, "ok");
  assert.is(checkJit("2\n").state, "ok");
  assert.is(checkJit("0\n").state, "missing");
  assert.is(checkJit(undefined).state, "note");
});

test("kernel BTF is good to have", () => {
  assert.is(checkBtf(true).state, "ok");
  assert.is(checkBtf(false).state, "note");
});

test("locked memory counts before Linux 5.11 only", () => {
  const limits = (soft: string) =>
    `Limit                     Soft Limit\nMax locked memory         ${soft}    65536    bytes\n`;
  assert.is(checkMemlock("5.11.0", limits("65536")), undefined);
  assert.is(checkMemlock("5.10.0", limits("unlimited"))?.state, "ok");
  const limited = checkMemlock("5.10.0", limits("65536"));
  assert.is(limited?.state, "note");
  assert.match(limited?.found ?? "", "65536 bytes");
});

test("bpffs: the remedy mounts the customary place, or the one in question, or lets it be written", () => {
  const kernel = (isBpffs: () => boolean, mount?: string) => ({ isBpffs, readOnlyMount: () => mount });
  const [yes, no] = [() => true, () => false];
  assert.is(checkBpffs("/sys/fs/bpf/remora", kernel(yes)).state, "ok");
  assert.equal(checkBpffs("/sys/fs/bpf/remora", kernel(no)), {
    check: "bpffs",
    state: "missing",
    found: "/sys/fs/bpf/remora is not on a bpffs",
    remedy: "mount -t bpf bpf /sys/fs/bpf",
  });
  assert.is(checkBpffs("/run/pins", kernel(no)).remedy, "mount -t bpf bpf /run/pins");
  assert.equal(checkBpffs("/run/pins/remora", kernel(yes, "/run/pins")), {
    check: "bpffs",
    state: "missing",
    found: "/run/pins is mounted read-only",
    remedy: "mount -o remount,rw /run/pins",
  });
  const throws = () => {
    throw new Error("statfs: EACCES");
  };
  assert.is(checkBpffs("/run/pins", kernel(throws)).found, "statfs: EACCES");
});

test.run();
