// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run demo`: two annotated pods under a containerd of their own, traffic between them, and what Remora shows of
 * it. Nothing outside the demo's own namespaces is touched; at the end all is taken away, after Ctrl-C too.
 */
import { spawn } from "node:child_process";
import { join, resolve } from "node:path";
import { styleText } from "node:util";
import { type Node, ptp, remora, startNode } from "../e2e/containerd/node.ts";
import { entry as entryOf, eventually, pins } from "../e2e/containerd/observe.ts";
import type { Pod } from "../e2e/containerd/pod.ts";
import { traces } from "../e2e/containerd/traces.ts";

const root = resolve(import.meta.dirname, "..");
const paint = (style: Parameters<typeof styleText>[0], text: string) =>
  styleText(style, text, { stream: process.stdout });
const say = (text = "") => process.stdout.write(`${text}\n`);
const step = (title: string, ...sentences: string[]) => say(`\n${[paint("bold", title), ...sentences].join("\n")}\n`);

/** Shows that something is under way, and how long it took. `work` says nothing itself. */
async function during<T>(what: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  process.stdout.write(`${what} ... `);
  const result = await work();
  say(`${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

/** Runs the build and names each step that it had to do; what else it says is shown only if it fails. */
function build(): Promise<void> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [join(root, "scripts/build.ts")], { cwd: root });
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data) => {
        output += data;
        for (const [, name] of String(data).matchAll(/^build: (\w+), [\d.]+ s$/gm))
          process.stdout.write(`${name} ... `);
      });
    child.once("error", failed);
    child.once("exit", (status) => {
      if (status === 0) done();
      else failed(new Error(`the build failed:\n${output}`));
    });
  });
}

const entry = remora({ chain: [{ program: "count", priority: 0 }] });
const annotations = {
  client: { "remora.io/programs": "acl", "acl.remora.io/rules": "deny egress tcp any 25" },
  web: { "remora.io/programs": "acl", "acl.remora.io/rules": "deny ingress udp any 53" },
};

async function play(node: Node): Promise<void> {
  step(
    "1. The node: Remora is one more plugin of the conflist, behind the primary one, here ptp.",
    "What its `chain` lists is for every pod of the node, whatever the pod asks for: count comes first.",
  );
  say(oneFieldALine(entry));

  step(
    "2. Two pods are created over the CRI, as the kubelet does it. Their annotations ask for acl.",
    "acl allows and denies by address, protocol and port; each pod has its own, with its own rules.",
  );
  const web = await node.runPod({ name: "web", annotations: annotations.web });
  const client = await node.runPod({ name: "client", annotations: annotations.client });
  for (const pod of [web, client]) showPod(pod, annotations[pod.name as keyof typeof annotations]);

  step("3. `remora status`: each pod came up with its chain, before its first container was started.");
  say(status(node));

  step("4. Traffic from client to web: a ping, a page over TCP, and one UDP packet to port 53.");
  await web.run("httpd", "-f", "-h", "/www");
  await show(client, /\d+ packets received/, "ping", "-c", "3", "-i", "0.2", web.ip);
  await show(client, /hello/, "wget", "-q", "-O", "-", `http://${web.ip}/`);
  await show(client, undefined, "send", web.ip, "53", "1");
  await eventually(() => {
    const { shot } = entryOf(node, web, "ingress", "acl").ended;
    if (shot !== 1) throw new Error(`acl was to drop one packet, and dropped ${shot}`);
  });

  step(
    "5. `remora status` again. The UDP packet reached web's acl and no further (`shot 1`): an annotation",
    "said so. The rest went through. (The kernel's own packets, such as ARP, are counted as well.)",
  );
  say(status(node));

  step("6. The pods are deleted; at the runtime's DEL Remora takes their chains away.");
  for (const pod of [client, web]) await pod.remove();
  if (node.status().length > 0) throw new Error("a chain is still attached");
  const pinned = pins(node);
  if (pinned.length > 0) throw new Error(`still pinned: ${pinned.join(", ")}`);
  say("    No chain is attached any more, and nothing is pinned.");
}

/** JSON as people write it in a conflist: short, a line for each field. */
function oneFieldALine(value: Record<string, unknown>): string {
  const fields = Object.entries(value).map(
    ([name, field]) => `"${name}": ${JSON.stringify(field, null, 1).replace(/\n\s*/g, " ")}`,
  );
  return `    { ${fields.join(",\n      ")} }`;
}

function showPod(pod: Pod, annotations: Record<string, string>): void {
  say(`    pod ${paint("bold", pod.name)}, ${pod.ip}`);
  for (const [name, value] of Object.entries(annotations)) say(`      ${name}: ${JSON.stringify(value)}`);
}

/** Runs a command in a pod and shows the line of its output that tells. Throws where it fails or there is no such line. */
async function show(pod: Pod, telling: RegExp | undefined, ...command: string[]): Promise<void> {
  const { stdout, stderr, exitCode } = await pod.exec(...command);
  const line = telling ? stdout.split("\n").find((each) => telling.test(each)) : "";
  if (exitCode !== 0 || line === undefined) throw new Error(`${pod.name}: ${command.join(" ")}: ${stdout}${stderr}`);
  say(`    ${pod.name}$ ${paint("cyan", command.join(" "))}${line && `\n      ${line}`}`);
}

/** The page as a person would see it on the node. */
function status(node: Node): string {
  const { status, stdout, stderr } = node.remora("status");
  if (status !== 0) throw new Error(`remora status: ${stderr}`);
  return stdout.trimEnd();
}

/** The exit status after Ctrl-C (see scratch.ts). */
const interrupted = 130;

async function main(): Promise<void> {
  say(paint("bold", "Remora: a chain of eBPF programs for each pod, behind whatever CNI plugin a cluster runs."));
  await during("Building (the first time takes minutes)", build);
  let dir: string;
  {
    using node = await during("Starting a containerd in namespaces of its own, apart from this machine's", () =>
      startNode({ plugins: [ptp(), entry] }),
    );
    dir = node.dir;
    // Runs behind those that take the node away.
    process.on("exit", (code) => {
      if (code === interrupted) say("\nInterrupted: everything that was started is removed.");
    });
    await play(node);
  }
  const left = traces(dir);
  if (left.length > 0) throw new Error(`the demo left behind: ${left.join(", ")}`);
  say("    Everything is removed: no process, mount, network, cgroup or file of this demo is left.");
}

try {
  await main();
} catch (error) {
  say(`\n${paint("red", "The demo failed:")} ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
