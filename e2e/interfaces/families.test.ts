// SPDX-License-Identifier: Apache-2.0
/** Pods with IPv6 alone, and with both: ADD to DEL with traffic, guard's addresses, and what the commands show of it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { transfer } from "../../bpf/pairs.ts";
import { executable } from "../protocol/executable.ts";
import { attachment, counted, done, ground, ping, podNamespace } from "./ground.ts";

const four = [{ subnet: "10.91.0.0/24" }];
const six = [{ subnet: "fd91::/64" }];

for (const { words, primary, ranges } of [
  { words: "IPv6 alone, behind ptp", primary: { type: "ptp" }, ranges: [six] },
  { words: "both, behind bridge", primary: { type: "bridge", isGateway: true }, ranges: [four, six] },
])
  test(words, async () => {
    using it = ground();
    const pod = podNamespace(it);
    const chain = [{ program: "count" }, { program: "flow-log" }, { program: "guard" }];
    const list = it.network({ ...primary, ipam: { type: "host-local", ranges } }, { chain });
    const where = attachment(pod.path);
    const added = list.add(where);
    const both = ranges.length === 2;
    const own = [...(both ? ["10.91.0.2"] : []), "fd91::2"];
    const gateways = [...(both ? ["10.91.0.1"] : []), "fd91::1"];
    const [status] = it.attachments();
    assert.is(status?.egress.find(({ program }) => program === "guard")?.params?.addresses, own.join("; "));

    for (const gateway of gateways) assert.ok(ping(pod, gateway, 2), gateway);
    for (const gateway of gateways) assert.is(await transfer(pod, it.host, gateway, 300_000), 300_000);
    for (const address of own) assert.is(await transfer(it.host, pod, address, 300_000), 300_000);
    // Nobody may send from an address that is not its own.
    pod.exec("ip", "address", "add", "fd91::9/64", "dev", "eth0");
    assert.not(ping(pod, "fd91::1", 1, "-I", "fd91::9", "-W", "0.3"));
    pod.exec("ip", "address", "del", "fd91::9/64", "dev", "eth0");
    for (const direction of ["ingress", "egress"] as const) assert.ok(counted(it, direction) >= 10, direction);
    list.check(where, added);

    const flows = done(it.remora("flows", "shop/web"));

    for (const words of ["icmp6 +out +fd91::2 +fd91::1 +2/2 ", "tcp +in +\\[fd91::2\\]:5001 +\\[fd91::1\\]:"])
      assert.match(flows, new RegExp(words));
    assert.is(/tcp +in .* 10\.91\.0\.1:/.test(flows), both, flows);
    const traced = await traceOf(it, () => ping(pod, "fd91::1", 2));
    assert.match(traced, /egress +icmp6 +fd91::2 > fd91::1 +echo request/);
    assert.match(traced, /ingress +icmp6 +fd91::1 > fd91::2 +echo reply/);
    list.del(where, added);
    assert.equal(it.pinned(), []);
  });

/** What `remora trace` prints of packets while `act` is done. */
async function traceOf(it: ReturnType<typeof ground>, act: () => boolean): Promise<string> {
  const trace = spawn("nsenter", [`--net=${it.host.path}`, executable, "trace", "shop/web", "--bpffs", it.bpffs]);
  const ended = once(trace, "close");
  try {
    let [said, started] = ["", ""];
    trace.stdout.on("data", (data) => {
      said += data;
    });
    trace.stderr.on("data", (data) => {
      started += data;
    });
    while (!started.includes("Ctrl-C")) {
      assert.is(trace.exitCode, null, started);
      await Promise.race([once(trace.stderr, "data"), ended]);
    }
    assert.ok(act());
    trace.kill("SIGINT");
    await ended;
    return said;
  } finally {
    trace.kill("SIGKILL");
  }
}

test.run();
