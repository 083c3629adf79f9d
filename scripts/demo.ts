// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run demo`: two annotated pods under a containerd of their own, traffic between them, and what Remora shows of
 * it. Nothing outside the demo's own namespaces is touched; at the end all is taken away, after Ctrl-C too.
 */
import { spawn } from "node:child_process";
import { join, resolve } from "node:path";
import { styleText } from "node:util";
import { type Node, ptp, remora, startNode } from "../e2e/containerd/node.ts";
import type { Pod } from "../e2e/containerd/pod.ts";
import { traces } from "../e2e/containerd/traces.ts";

const root = resolve(import.meta.dirname, "..");
const paint = (style: Parameters<typeof styleText>[0], text: string) =>
  styleText(style, text, { stream: process.stdout });
const say = (text = "") => process.stdout.write(`${text}\n`);
const step = (title: string, sentence: string) => say(`\n${paint("bold", title)}\n${sentence}\n`);
const indented = (text: string) => text.trimEnd().replace(/^(?=.)/gm, "    ");

/** Shows that something is under way, and how long it took. `work` says nothing itself. */
async function during<T>(what: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  process.stdout.write(`${what} ... `);
  const result = await work();
  say(`${((performance.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

/** Runs the build; what it says is shown only if it fails. */
function build(): Promise<void> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [join(root, "scripts/build.ts")], { cwd: root });
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data) => {
        output += data;
      });
    child.once("error", failed);
    child.once("exit", (status) => {
      if (status === 0) done();
      else failed(new Error(`the build failed:\n${output}`));
    });
  });
}

/** Runs a command in a pod and shows the last line of what it said. */
async function show(pod: Pod, command: string[], meaning: string): Promise<void> {
  const { stdout, stderr, exitCode } = await pod.exec(...command);
  const last = `${stdout}${stderr}`
    .trim()
    .split("\n")
    .filter((line) => !/^(round-trip|$)/.test(line))
    .at(-1);
  say(`    ${pod.name}$ ${paint("cyan", command.join(" "))}`);
  say(`        ${last ?? `(exit status ${exitCode})`}${meaning}`);
}

/** The exit status after Ctrl-C (scratch.ts). */
const interrupted = 130;

const nodeWide = [{ program: "count", priority: 0 }];
const clientAnnotations = {
  "remora.io/programs": "acl",
  "acl.remora.io/rules": "deny egress tcp any 25",
};
const webAnnotations = {
  "remora.io/programs": "acl",
  "acl.remora.io/rules": "allow ingress udp 192.0.2.0/24 53; deny ingress udp any 53",
};
const manifest = (annotations: Record<string, string>) =>
  Object.entries(annotations)
    .map(([name, value]) => `${name}: ${JSON.stringify(value)}`)
    .join("\n");

async function play(node: Node): Promise<void> {
  step(
    "1. The node: Remora is one more plugin in the conflist, behind the primary one (ptp here).",
    "Its `chain` is for every pod of the node: count is the first program that a packet meets.",
  );
  say(indented(JSON.stringify(remora({ chain: nodeWide }), null, 2)));

  step("2. The pods: two are created over the CRI, as the kubelet does it. What they want, their annotations say.", "");
  const web = await node.runPod({ name: "web", annotations: webAnnotations });
  const client = await node.runPod({ name: "client", annotations: clientAnnotations });
  await web.run("httpd", "-f", "-h", "/www");
  for (const [pod, annotations] of [
    [client, clientAnnotations],
    [web, webAnnotations],
  ] as const)
    say(`    pod ${paint("bold", pod.name)}, ${pod.ip}\n${indented(indented(manifest(annotations)))}`);

  step("3. remora status: each pod has its chain already, before any process of its containers ran.", "");
  say(status(node));

  step("4. Traffic between the two.", "");
  await show(client, ["ping", "-c", "3", "-i", "0.2", web.ip], "");
  await show(client, ["wget", "-q", "-O", "-", `http://${web.ip}/`], "");
  await client.exec("send", web.ip, "53", "1");
  say(`    client$ ${paint("cyan", `send ${web.ip} 53 1`)}`);
  say("        one UDP packet to port 53, which the annotation of web denies: acl drops it");

  step("5. remora status again: the same chains have counted, and web's acl has ended one packet (shot 1).", "");
  say(status(node));

  step("6. The pods are deleted: the runtime calls DEL, and nothing stays behind.", "");
  await client.remove();
  await web.remove();
  say(indented(status(node)));
}

function status(node: Node): string {
  const { status, stdout, stderr } = node.remora("status");
  if (status !== 0) throw new Error(`remora status: ${stderr}`);
  return stdout.trimEnd();
}

async function main(): Promise<void> {
  say(paint("bold", "Remora: a chain of eBPF programs for each pod, behind whichever CNI plugin a cluster runs."));
  say();
  await during("Building (the first time takes minutes)", build);
  let dir: string;
  {
    using node = await during("Starting a containerd of our own, in namespaces of its own", () =>
      startNode({ plugins: [ptp(), remora({ chain: nodeWide })] }),
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
  say("\nEverything is removed: no process, mount, cgroup, pin or file of this demo is left.");
}

try {
  await main();
} catch (error) {
  say(`\n${paint("red", "The demo failed:")} ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
