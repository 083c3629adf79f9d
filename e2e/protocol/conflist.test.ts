// SPDX-License-Identifier: Apache-2.0
/** The examples of `conflist/` whose primary plugin Debian has, executed as libcni would, pod with network and all. */
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { type Conflist, chainRunner, PluginError } from "./chain-runner.ts";
import { executable } from "./executable.ts";
import { links, pins, programFolder } from "./pod.ts";

const examples = resolve(import.meta.dirname, "../../conflist");
const plugins = "/usr/lib/cni";

for (const example of ["ptp", "bridge"])
  for (const cniVersion of ["0.3.1", "0.4.0", "1.0.0"])
    test(`${example}, ${cniVersion}: ADD, CHECK, DEL, with packets in between`, () => {
      using world = scratch();
      const host = world.namespace();
      const pod = world.namespace();
      const bpffs = `${world.bpffs()}/remora`;
      const list = JSON.parse(readFileSync(join(examples, `${example}.conflist`), "utf8")) as Conflist;
      list.cniVersion = cniVersion;
      // The machine's own places, exchanged for this test's; everything else is as a user pastes it.
      for (const plugin of list.plugins) {
        if (plugin.ipam) Object.assign(plugin.ipam, { dataDir: join(world.dir, "ipam") });
        if (plugin.type === "remora")
          Object.assign(plugin, { programDirs: [programFolder(world)], bpffs, log: { level: "warn" } });
      }
      const chain = chainRunner(list, host.path, [dirname(executable), plugins]);
      const attachment = {
        containerId: `c${process.pid}`,
        netns: pod.path,
        ifname: "eth0",
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=5d1",
        capabilities: { "io.kubernetes.cri.pod-annotations": { "remora.io/programs": "count" }, portMappings: [] },
      };

      const added = chain.add(attachment);
      assert.is(added.cniVersion, cniVersion);
      assert.is(links(bpffs), 2);
      const [address] = added.ips as { address: string; gateway: string }[];
      pod.exec("ping", "-c", "2", "-i", "0.2", "-W", "2", address?.gateway ?? "");
      if (cniVersion !== "0.3.1") chain.check(attachment, added);

      chain.del(attachment, added);
      assert.equal(pins(bpffs), []);
      chain.del(attachment);

      // The annotation's author reads this in the pod's events.
      const mistaken = {
        ...attachment,
        capabilities: { "io.kubernetes.cri.pod-annotations": { "remora.io/programs": "contu" } },
      };
      let error: unknown;
      try {
        chain.add(mistaken);
      } catch (thrown) {
        error = thrown;
      }
      assert.instance(error, PluginError);
      assert.match((error as PluginError).message, /^remora: .*contu/);
      assert.is((error as PluginError).answer.code, 100);
      chain.del(mistaken);
      assert.equal(pins(bpffs), []);
    });

test.run();
