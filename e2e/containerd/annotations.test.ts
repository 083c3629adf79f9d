// SPDX-License-Identifier: Apache-2.0
/** What a pod's author reads when the pod cannot be had as asked, and that nothing stays of it. */
import { chmodSync, copyFileSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { addProgram, type Node, ptp, remora, startNode } from "./node.ts";
import { attachment, names, remains } from "./observe.ts";
import type { PodSpec } from "./pod.ts";

/** The failure as `kubectl describe pod` would show it. Throws where the pod comes up, or where something of it stays. */
async function refusal(node: Node, spec: PodSpec): Promise<string> {
  const left = remains(node);
  const pod = await node.runPod(spec).then(
    () => undefined,
    (error: Error) => error.message,
  );
  if (pod === undefined) throw new Error(`pod ${spec.name} came up with ${JSON.stringify(spec.annotations)}`);
  assert.equal(remains(node), left);
  assert.match(pod, /plugin type="remora" failed \(add\)/);
  return pod;
}

const mistakes: { what: string; annotations: Record<string, string>; says: RegExp[] }[] = [
  {
    what: "a program that does not exist",
    annotations: { "remora.io/programs": "acll" },
    says: [/acll/, /did you mean.*acl|programs.*acl/i, /remora\.io\/programs/],
  },
  {
    what: "a rule that cannot be read",
    annotations: { "remora.io/programs": "acl", "acl.remora.io/rules": "deny tcp any 90-80" },
    says: [/shop\/web/, /acl\.remora\.io\/rules/, /90-80/],
  },
  {
    what: "a value that is not one of the choices",
    annotations: { "remora.io/programs": "acl", "acl.remora.io/default_action": "reject" },
    says: [/shop\/web/, /acl\.remora\.io\/default_action/, /reject/, /allow/, /deny/],
  },
  {
    what: "a parameter that the program does not have",
    annotations: { "remora.io/programs": "acl", "acl.remora.io/rule": "deny tcp" },
    says: [/shop\/web/, /acl\.remora\.io\/rule/, /rules/],
  },
  {
    what: "a parameter of a program that is not selected",
    annotations: { "remora.io/programs": "count", "acl.remora.io/rules": "deny tcp" },
    says: [/shop\/web/, /acl\.remora\.io\/rules/, /acl/],
  },
  {
    what: "JSON that is cut short",
    annotations: { "remora.io/programs": '[{"program":"acl"' },
    says: [/shop\/web/, /remora\.io\/programs/, /JSON/],
  },
  {
    what: "a priority beyond 1000",
    annotations: { "remora.io/programs": '[{"program":"acl","priority":1001}]' },
    says: [/shop\/web/, /remora\.io\/programs/, /1001|priority/, /1000/],
  },
  {
    what: "a path in place of a name",
    annotations: { "remora.io/programs": "../../etc/passwd" },
    says: [/shop\/web/, /remora\.io\/programs/],
  },
  {
    what: "more programs than a chain holds",
    annotations: {
      "remora.io/programs": JSON.stringify(Array.from({ length: 33 }, () => ({ program: "count" }))),
    },
    says: [/32/, /33/],
  },
];

test("a mistake in an annotation fails the pod in words for its author, and leaves nothing", async () => {
  using node = await startNode({ plugins: [ptp(), remora()] });
  for (const { what, annotations, says } of mistakes) {
    const message = await refusal(node, { name: "web", namespace: "shop", annotations });
    for (const words of says) assert.match(message, words, `${what}: ${words} is not in: ${message}`);
  }
  assert.equal((await node.cri.call("ListPodSandbox", {})).items, [], "no sandbox stays");
  assert.equal(node.status(), []);

  // Nor is anything spoilt: the next pod comes up.
  const pod = await node.runPod({ name: "web", namespace: "shop", annotations: { "remora.io/programs": "acl" } });
  await pod.remove();
});

test("an object that cannot be had fails only the pods that ask for it, with the reason", async () => {
  using node = await startNode({ plugins: [ptp(), remora()] });
  const programs = (name: string): string => join(node.programs, name);
  writeFileSync(programs("text.bpf.o"), "this is no object\n");
  const acl = readFileSync(programs("acl.bpf.o"));
  writeFileSync(programs("cut.bpf.o"), acl.subarray(0, acl.length >> 1));
  copyFileSync(programs("count.bpf.o"), programs("open.bpf.o"));
  chmodSync(programs("open.bpf.o"), 0o666);
  copyFileSync(programs("count.bpf.o"), join(node.dir, "outside.bpf.o"));
  symlinkSync(join(node.dir, "outside.bpf.o"), programs("outside.bpf.o"));
  addProgram(node, "refused");
  addProgram(node, "xdp");

  const reasons: Record<string, RegExp[]> = {
    text: [/text\.bpf\.o/, /ELF/],
    cut: [/cut\.bpf\.o/, /ELF|truncated/],
    open: [/open\.bpf\.o/, /0666|writ/, /chmod/],
    outside: [/outside\.bpf\.o/, /symlink/],
    refused: [/refused/, /verifier/i, /invalid access to packet/],
    xdp: [/xdp/i, /TC|tc/],
  };
  for (const [name, says] of Object.entries(reasons)) {
    const message = await refusal(node, { name: "web", annotations: { "remora.io/programs": `count, ${name}` } });
    for (const words of says) assert.match(message, words, `${name}: ${words} is not in: ${message}`);
    const good = await node.runPod({ name: `beside-${name}`, annotations: { "remora.io/programs": "count" } });
    await good.remove();
  }
});

test("which programs a namespace may select is the node's to say", async () => {
  const allow = { "*": ["count"], "team-*": ["acl", "count"] };
  using node = await startNode({ plugins: [ptp(), remora({ allow })] });
  const annotations = { "remora.io/programs": "acl" };
  const message = await refusal(node, { name: "web", namespace: "default", annotations });
  for (const words of [/acl/, /namespace/, /default/, /count/]) assert.match(message, words);
  const pod = await node.runPod({ name: "web", namespace: "team-a", annotations });
  assert.equal(names(attachment(node, pod).ingress), ["acl"]);
});

test("with failurePolicy open the pod comes up without what is missing, and status says so", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ failurePolicy: "open" })] });
  const pod = await node.runPod({ name: "web", annotations: { "remora.io/programs": "nowhere, count" } });
  const { degraded, ingress } = attachment(node, pod);
  assert.equal(names(ingress), ["count"]);
  assert.is(degraded.length, 1);
  assert.is(degraded[0]?.program, "nowhere");
});

test.run();
