// SPDX-License-Identifier: Apache-2.0
/** A runtime that asks for STATUS (containerd 2, CNI 1.1.0): a node where no pod could have its chain is not ready, and says why. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Node, ptp, remora, startNode } from "../containerd/node.ts";
import { remains } from "../containerd/observe.ts";

/** The condition as the kubelet would see it. */
async function network(node: Node): Promise<{ status: boolean; reason: string; message: string }> {
  const { status } = await node.cri.call("Status", { verbose: false });
  const found = status.conditions.find(({ type }) => type === "NetworkReady");
  if (!found) throw new Error("the runtime says nothing of the network");
  return found;
}

/** That of the error with which Remora answers the STATUS that the runtime sends; undefined where there is none. */
function code({ dir, exec, conflist }: Node): number | undefined {
  const { cniVersion, name, plugins } = conflist;
  writeFileSync(join(dir, "request.json"), JSON.stringify({ cniVersion, name, ...plugins[1] }));
  const { stdout } = exec(
    "sh",
    "-c",
    'CNI_COMMAND=STATUS CNI_PATH="$1/bin" "$1/bin/remora" <"$1/request.json"',
    "sh",
    dir,
  );
  return stdout === "" ? undefined : JSON.parse(stdout).code;
}

test("the runtime calls STATUS, with the network's configuration and no container", async () => {
  const witness = `{ echo "$CNI_COMMAND $CNI_CONTAINERID"; cat; echo; } >>"$here/calls"`;
  const plugins = [ptp(), remora({ chain: [{ program: "count" }] }), { type: "witness" }];
  using node = await startNode({ plugins, scripts: { witness } });
  assert.is(node.conflist.cniVersion, "1.1.0");
  assert.is((await network(node)).status, true);
  const [called, configuration = ""] = readFileSync(join(node.dir, "calls"), "utf8").split("\n");
  assert.is(called?.trim(), "STATUS");
  const { cniVersion, name, type, prevResult } = JSON.parse(configuration);
  assert.equal([cniVersion, name, type, prevResult], ["1.1.0", "pods", "witness", undefined]);
});

const outages: {
  what: string;
  begin(node: Node): [string, ...string[]];
  end(node: Node): [string, ...string[]];
  says: RegExp;
}[] = [
  {
    what: "no bpffs where the pins go",
    begin: ({ bpffs }) => ["umount", "--lazy", bpffs],
    end: ({ bpffs }) => ["mount", "-t", "bpf", "-o", "mode=0700", "bpf", bpffs],
    says: /bpffs/,
  },
  {
    what: "a program of the node's chain that is gone",
    begin: ({ programs }) => ["mv", join(programs, "count.bpf.o"), join(programs, "away")],
    end: ({ programs }) => ["mv", join(programs, "away"), join(programs, "count.bpf.o")],
    says: /no pod could be given its chain.*count/s,
  },
  {
    what: "a program directory that everybody can write",
    begin: ({ programs }) => ["chmod", "0777", programs],
    end: ({ programs }) => ["chmod", "0755", programs],
    says: /programs.*0777|writ/s,
  },
];

test("a failing STATUS makes the network not ready with the reason, and it is ready again after it", async () => {
  using node = await startNode({ plugins: [ptp(), remora({ chain: [{ program: "count" }] })] });
  const does = (command: [string, ...string[]]): void => {
    const { status, stderr } = node.exec(...command);
    assert.is(status, 0, stderr);
  };
  for (const { what, begin, end, says } of outages) {
    assert.equal(await network(node).then(({ status, message }) => [status, message]), [true, ""], `before ${what}`);
    assert.is(code(node), undefined, `before ${what}`);
    does(begin(node));
    const { status, reason, message } = await network(node);
    assert.is(status, false, what);
    assert.is(reason, "NetworkPluginNotReady");
    assert.match(message, says, what);
    assert.is(code(node), 50, what);
    does(end(node));
  }
  const pod = await node.runPod({ name: "web" });
  await pod.remove();
  assert.equal(remains(node), []);
});

test.run();
