// SPDX-License-Identifier: Apache-2.0
/**
 * The life of a pod, rehearsed while the runtime is built: what V8 compiles for it goes into the code cache that the
 * runtime starts with. On a machine that lets us, in namespaces and on a bpffs of its own, which end with it; elsewhere
 * each verb goes as far as it can, and the runtime compiles the rest when it gets there.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "./command.ts";

/** Every namespace has this one. */
const interfaceName = "lo";

/** Runs `bundle` (main.js) for each verb, one after the other; the cache grows from run to run. `work` is a scratch folder. */
export function rehearse(root: string, work: string, bundle: string, cache: string): void {
  const bpffs = join(work, "bpffs");
  mkdirSync(bpffs);
  const config = JSON.stringify({
    cniVersion: "1.1.0",
    name: "rehearsal",
    type: "remora",
    capabilities: { "io.kubernetes.cri.pod-annotations": true },
    runtimeConfig: { "io.kubernetes.cri.pod-annotations": { "remora.io/programs": "acl" } },
    programDirs: [join(root, "dist/programs")],
    bpffs: join(bpffs, "remora"),
    chain: [{ program: "count" }],
    prevResult: { cniVersion: "1.1.0", interfaces: [{ name: interfaceName, sandbox: "/proc/self/ns/net" }], ips: [] },
    "cni.dev/valid-attachments": [],
  });
  // A plugin may not be in the pod's namespace, so the pod's is one below ours.
  const script = `
    mount -t bpf bpf "$1"
    unshare --net sleep 600 & pod=$!
    trap 'kill $pod' EXIT
    until [ "$(readlink /proc/$pod/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    export CNI_NETNS=/proc/$pod/ns/net
    shift
    for verb in STATUS ADD CHECK DEL GC; do printf %s "$CONFIG" | CNI_COMMAND=$verb "$@"; done`;
  const rehearsal = [join(root, "scripts/make/rehearse.cjs"), bundle, cache];
  // The bundle takes the addon from ../../native here, as it does when it runs from source (see plugin/kernel/addon.ts).
  const cwd = join(root, ".cache/build");
  // This much goes anywhere, and what it leaves is a valid cache already.
  command("env", ["CNI_COMMAND=VERSION", process.execPath, ...rehearsal], cwd);
  spawnSync(
    "unshare",
    [
      ...["--mount", "--net", "--propagation", "private"],
      ...["sh", "-c", script, "rehearsal", bpffs, process.execPath, ...rehearsal],
    ],
    {
      cwd,
      stdio: ["ignore", process.env.REMORA_REHEARSAL ? "inherit" : "ignore", "ignore"],
      env: {
        ...process.env,
        CONFIG: config,
        CNI_CONTAINERID: "rehearsal",
        CNI_IFNAME: interfaceName,
        CNI_PATH: "/opt/cni/bin",
        CNI_ARGS:
          "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=rehearsal;K8S_POD_INFRA_CONTAINER_ID=rehearsal",
      },
    },
  );
}
