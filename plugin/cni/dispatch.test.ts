// SPDX-License-Identifier: Apache-2.0
/** The protocol: what is refused, what the verbs are told, what is answered. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { code, RemoraError } from "../errors.ts";
import { dispatch, type LoadVerbs, type Outcome, type Verbs } from "./dispatch.ts";
import { changed, goodConfiguration, goodEnvironment, refusals } from "./refusals.table.ts";
import type { Request } from "./request.ts";

const untouched: LoadVerbs = () => {
  throw new Error("a verb was loaded");
};

/** Calls dispatch with a good environment and what is changed in it. */
function call(
  env: Record<string, string | undefined>,
  stdin: string | Record<string, unknown>,
  loadVerbs: LoadVerbs = untouched,
): Promise<Outcome> {
  return dispatch(
    {
      env: { ...goodEnvironment, ...env },
      stdin: async () => (typeof stdin === "string" ? stdin : changed(stdin)),
      isOwnNamespace: (netns) => netns === "/proc/self/ns/net",
    },
    loadVerbs,
  );
}

/** Verbs that note what they are told, and do what is asked of them here. */
function recorder(act: () => void = () => {}): { calls: [string, unknown][]; load: LoadVerbs } {
  const calls: [string, unknown][] = [];
  const note = (verb: string) => async (request: unknown) => {
    calls.push([verb, request]);
    act();
  };
  const verbs: Verbs = {
    add: note("add"),
    del: note("del"),
    check: note("check"),
    gc: note("gc"),
    status: note("status"),
  };
  return { calls, load: () => verbs };
}

/** The configuration that the one verb called was given. */
function configOf(calls: [string, unknown][]): unknown {
  assert.is(calls.length, 1);
  return (calls[0]?.[1] as Request | undefined)?.config;
}

for (const { name, env, stdin, code, says, cniVersion } of refusals)
  test(`refuses: ${name}`, async () => {
    const outcome = await call(env, stdin);
    assert.is(outcome.exitCode, 1);
    const answer = JSON.parse(outcome.stdout);
    assert.equal(Object.keys(answer), ["cniVersion", "code", "msg", "details"]);
    assert.match(answer.msg, says);
    assert.is(answer.code, code);
    assert.is(answer.cniVersion, cniVersion ?? "1.1.0");
  });

test("the environment is refused before stdin is read", async () => {
  const outcome = await dispatch(
    {
      env: { CNI_COMMAND: "ADD" },
      stdin: () => Promise.reject(new Error("read")),
      isOwnNamespace: () => false,
    },
    untouched,
  );
  assert.is(JSON.parse(outcome.stdout).code, 4);
});

test("VERSION needs nothing, reads nothing, loads nothing", async () => {
  const outcome = await dispatch(
    {
      env: { CNI_COMMAND: "VERSION" },
      stdin: () => Promise.reject(new Error("read")),
      isOwnNamespace: () => false,
    },
    untouched,
  );
  assert.equal(outcome, {
    stdout: '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}\n',
    exitCode: 0,
  });
});

const defaults = {
  network: "pods",
  programDirs: ["/etc/remora/programs"],
  chain: [],
  allow: { "*": ["*"] },
  failurePolicy: "closed",
  hook: "auto",
  bpffs: "/sys/fs/bpf/remora",
  agent: { socket: "/run/remora/agent.sock" },
  log: { level: "info" },
};
const attachment = {
  config: defaults,
  cniVersion: "1.1.0",
  containerId: "c0ffee",
  netns: goodEnvironment.CNI_NETNS,
  ifname: "eth0",
};
const prevResult = {
  interfaces: [{ name: "eth0", mac: "", sandbox: goodEnvironment.CNI_NETNS }],
  ips: [{ address: "10.0.0.2/24", gateway: "", interface: 0 }],
};

test("ADD is told everything, and answers with prevResult", async () => {
  const { calls, load } = recorder();
  const annotations = { "remora.io/programs": "count", other: "a=b;\nc" };
  const outcome = await call(
    { CNI_ARGS: "IgnoreUnknown=1;K8S_POD_UID=u;K8S_POD_NAME=web;X=;K8S_POD_NAMESPACE=shop" },
    { runtimeConfig: { "io.kubernetes.cri.pod-annotations": annotations } },
    load,
  );
  assert.equal(outcome, { stdout: `${JSON.stringify(goodConfiguration.prevResult)}\n`, exitCode: 0 });
  const pod = { namespace: "shop", name: "web", uid: "u" };
  assert.equal(calls, [["add", { ...attachment, pod, annotations, prevResult }]]);
});

test("ADD without Kubernetes has no pod and no annotations", async () => {
  const { calls, load } = recorder();
  await call({}, {}, load);
  assert.equal(calls, [["add", { ...attachment, pod: null, annotations: undefined, prevResult }]]);
});

test("CHECK is told the same and prints nothing", async () => {
  const { calls, load } = recorder();
  assert.equal(await call({ CNI_COMMAND: "CHECK" }, { kubeconfig: "/x" }, load), { stdout: "", exitCode: 0 });
  const config = { ...defaults, kubeconfig: "/x" };
  assert.equal(calls, [["check", { ...attachment, config, pod: null, annotations: undefined, prevResult }]]);
});

test("STATUS and GC print nothing", async () => {
  const { calls, load } = recorder();
  const silence = { stdout: "", exitCode: 0 };
  const bare = { CNI_CONTAINERID: undefined, CNI_NETNS: undefined, CNI_IFNAME: undefined };
  const list = [{ containerID: "a.b", ifname: "eth0", more: 1 }];
  assert.equal(await call({ ...bare, CNI_COMMAND: "STATUS" }, { prevResult: undefined }, load), silence);
  assert.equal(await call({ ...bare, CNI_COMMAND: "GC" }, { "cni.dev/valid-attachments": list }, load), silence);
  assert.equal(await call({ ...bare, CNI_COMMAND: "GC" }, { "cni.dev/attachments": list }, load), silence);
  assert.equal(
    await call({ ...bare, CNI_COMMAND: "GC" }, { "cni.dev/attachments": list, "cni.dev/valid-attachments": [] }, load),
    silence,
  );
  assert.equal(await call({ ...bare, CNI_COMMAND: "GC" }, { "cni.dev/valid-attachments": null }, load), silence);
  const gc = (validAttachments: unknown) => ["gc", { config: defaults, cniVersion: "1.1.0", validAttachments }];
  const one = [{ containerId: "a.b", ifname: "eth0" }];
  assert.equal(calls, [["status", { config: defaults, cniVersion: "1.1.0" }], gc(one), gc(one), gc([]), gc([])]);
});

test("DEL logs where it is told, and has its defaults", async () => {
  const { calls, load } = recorder();
  await call({ CNI_COMMAND: "DEL" }, { log: { level: "debug", file: "/var/log/remora" } }, load);
  await call({ CNI_COMMAND: "DEL" }, { log: { file: "remora" } }, load);
  await call({ CNI_COMMAND: "DEL" }, { log: 5 }, load);
  const { network, bpffs, log } = defaults;
  assert.equal(
    calls.map(([, request]) => (request as Request).config),
    [
      { network, bpffs, log: { level: "debug", file: "/var/log/remora" } },
      { network, bpffs, log },
      { network, bpffs, log },
    ],
  );
});

test("GC without a list removes nothing", async () => {
  assert.equal(await call({ CNI_COMMAND: "GC" }, {}), { stdout: "", exitCode: 0 });
});

test("DEL succeeds with next to nothing", async () => {
  const { calls, load } = recorder();
  const outcome = await call(
    { CNI_COMMAND: "DEL", CNI_NETNS: undefined, CNI_ARGS: "not;pairs=" },
    {
      bpffs: "/run/bpf",
      prevResult: "anything",
      runtimeConfig: 5,
      fieldOfTomorrow: 1,
      hook: "xdp",
      chain: [{ program: "a", next: "b" }],
      log: { level: "loud" },
    },
    load,
  );
  assert.equal(outcome, { stdout: "", exitCode: 0 });
  const config = { network: "pods", bpffs: "/run/bpf", log: { level: "loud" } };
  assert.equal(calls, [["del", { ...attachment, config, netns: "" }]]);
});

test("CNI_NETNS_OVERRIDE lets the own namespace be", async () => {
  for (const override of ["1", "true", "TRUE"]) {
    const { calls, load } = recorder();
    await call({ CNI_NETNS: "/proc/self/ns/net", CNI_NETNS_OVERRIDE: override }, {}, load);
    assert.is(calls.length, 1);
  }
});

test("the envelope passes, whatever it holds", async () => {
  const { calls, load } = recorder();
  const outcome = await call(
    {},
    {
      cniVersions: ["1.0.0", "1.1.0"],
      args: { cni: {} },
      ipam: {},
      dns: { nameservers: [] },
      capabilities: { "io.kubernetes.cri.pod-annotations": true },
      ipMasq: true,
      disableCheck: true,
      disableGC: false,
      loadOnlyInlinedPlugins: true,
      "cni.dev/anything": 1,
      // What Multus writes into each entry of a list that has a device: an SR-IOV pod.
      deviceID: "0000:3b:02.1",
      pciBusID: "0000:3b:02.1",
    },
    load,
  );
  assert.is(outcome.exitCode, 0);
  assert.equal(configOf(calls), defaults);
});

test("every field of ours arrives as it was written", async () => {
  const { calls, load } = recorder();
  const own = {
    programDirs: ["/a", "/b"],
    chain: [
      { program: "count" },
      {
        program: "rate",
        params: { rate: "10Mbit", burst: 5, on: true },
        priority: 0,
        directions: ["egress"],
        at: "host",
      },
    ],
    allow: { "*": [], "kube-*": ["count", "flow-*"] },
    failurePolicy: "open",
    hook: "clsact",
    bpffs: "/run/bpf",
    kubeconfig: "/etc/kube",
    agent: { socket: "/run/a.sock" },
    log: { level: "debug", file: "/var/log/remora" },
  };
  await call({}, { ...own, runtimeConfig: { "io.kubernetes.cri.pod-annotations": {} } }, load);
  assert.equal(configOf(calls), { network: "pods", ...own });
});

test("a parameter beyond 2^53 keeps every digit", async () => {
  const { calls, load } = recorder();
  const text = changed({ chain: [{ program: "a", params: { mask: "@" } }] }).replace('"@"', "18446744073709551615");
  await call({}, text, load);
  const chain = [{ program: "a", params: { mask: "18446744073709551615" } }];
  assert.equal(configOf(calls), { ...defaults, chain });
});

test("each version does ADD, and says its own in errors", async () => {
  for (const cniVersion of ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]) {
    const { load } = recorder();
    const configuration = { cniVersion, prevResult: { ...goodConfiguration.prevResult, cniVersion } };
    assert.is(JSON.parse((await call({}, configuration, load)).stdout).cniVersion, cniVersion);
    const refused = JSON.parse((await call({}, { ...configuration, hook: 1 })).stdout);
    assert.equal([refused.cniVersion, refused.code], [cniVersion, 7]);
  }
});

test("what a verb throws is the answer", async () => {
  const { load } = recorder(() => {
    throw new RemoraError(code.verifierRefused, "the verifier refused count", { details: "a\nlog" });
  });
  const outcome = await call({}, {}, load);
  assert.is(outcome.exitCode, 1);
  const answer = { cniVersion: "1.1.0", code: 103, msg: "the verifier refused count", details: "a\nlog" };
  assert.equal(JSON.parse(outcome.stdout), answer);
});

test("what nobody expected is code 199 with the stack", async () => {
  for (const thrown of [new TypeError("x is not a function"), "a string", undefined, { odd: true }]) {
    const { load } = recorder(() => {
      throw thrown;
    });
    const outcome = await call({ CNI_COMMAND: "DEL" }, {}, load);
    assert.is(outcome.exitCode, 1);
    const answer = JSON.parse(outcome.stdout);
    assert.is(answer.code, 199);
    assert.match(answer.msg, /^internal error: /);
    if (thrown instanceof Error) assert.match(answer.details, /dispatch\.test\.ts/);
  }
});

test("verbs that cannot be loaded are an answer too", async () => {
  const outcome = await call({}, {}, () => Promise.reject(new Error("no addon")));
  assert.is(JSON.parse(outcome.stdout).msg, "internal error: no addon");
});

test("an unreadable stdin is an answer too", async () => {
  const outcome = await dispatch(
    {
      env: goodEnvironment,
      stdin: () => Promise.reject(new RemoraError(code.ioFailure, "stdin: EIO")),
      isOwnNamespace: () => false,
    },
    untouched,
  );
  assert.is(JSON.parse(outcome.stdout).code, 5);
});

test.run();
