// SPDX-License-Identifier: Apache-2.0
/** The fixture itself, without Remora: what the other tests here take for granted. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { bridge, ptp, startNode } from "./node.ts";
import { traces } from "./traces.ts";

for (const primary of [ptp, bridge])
  test(`two pods behind ${primary().type} reach each other by ping and by TCP`, async () => {
    using node = await startNode({ plugins: [primary()] });
    const web = await node.runPod({ name: "web" });
    const client = await node.runPod({ name: "client" });
    await web.run("httpd", "-f", "-h", "/www");
    const ping = await client.exec("ping", "-c", "2", "-i", "0.1", web.ip);
    assert.match(ping.stdout, "2 packets received");
    const page = await client.exec("wget", "-q", "-O", "-", `http://${web.ip}/`);
    assert.is(page.stdout, "hello from the other pod\n");
    await client.remove();
    await web.remove();
    const links = JSON.parse(node.exec("ip", "-json", "link").stdout) as { ifname: string }[];
    assert.is(links.filter(({ ifname }) => ifname.startsWith("veth")).length, 0);
  });

test("pods outlive a containerd that is killed, and are removed through the next one", async () => {
  using node = await startNode({ plugins: [ptp()] });
  const pod = await node.runPod({ name: "lasting" });
  await node.killRuntime();
  await node.startRuntime();
  assert.is((await pod.exec("echo", "still here")).stdout, "still here\n");
  await pod.remove();
  assert.equal((await node.cri.call("ListPodSandbox", {})).items, []);
});

const interfaces = (): string[] => readdirSync("/sys/class/net");

test("nothing of a node is left when its block ends, running pods included", async () => {
  const before = interfaces();
  let dir: string;
  {
    using node = await startNode({ plugins: [bridge()] });
    dir = node.dir;
    const pod = await node.runPod({ name: "abandoned" });
    await pod.exec("ls");
    assert.equal(interfaces(), before, "the machine's own namespace is not touched");
    assert.is.not(traces(dir).length, 0);
  }
  assert.equal(traces(dir), []);
});

/** Starts a node with a pod in a process of its own, prints the folder, and ends as `ending` says. */
function elsewhere(ending: string): { dir: string; signal: string | null } {
  const program = `
    import { ptp, startNode } from ${JSON.stringify(join(import.meta.dirname, "node.ts"))};
    const node = await startNode({ plugins: [ptp()] });
    await (await node.runPod({ name: "elsewhere" })).exec("ls");
    process.stdout.write(node.dir);
    ${ending};`;
  const child = spawnSync(process.execPath, ["--input-type=module", "--eval", program], { encoding: "utf8" });
  assert.match(child.stdout, /remora-test-/, child.stderr);
  return { dir: child.stdout, signal: child.signal };
}

test("a node whose test was killed is gone with it; the next one takes its folder and cgroups away", () => {
  const killed = elsewhere('process.kill(process.pid, "SIGKILL")');
  assert.is(killed.signal, "SIGKILL");
  const next = elsewhere("process.exit()");
  assert.equal(traces(killed.dir), []);
  assert.equal(traces(next.dir), [], "nor does one that ends without a word leave anything");
});

test.run();
