// SPDX-License-Identifier: Apache-2.0
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { asRemoraError, hasTcx, joinErrors } from "../chain/explain.ts";
import { EntryFailed } from "../chain/generation.ts";
import { listAttachments } from "../chain/status.ts";
import type { Verbs } from "../cni/dispatch.ts";
import { code, RemoraError } from "../errors.ts";
import { FakeKernel, type ObjectSketch } from "../kernel/fake.ts";
import { KernelError } from "../kernel/port.ts";
import type { Selected } from "../model.ts";
import { type KeptLog, keepLog, request, type Sketch } from "./fixture.ts";
import { createVerbs } from "./index.ts";

const bpffs = "/sys/fs/bpf/remora";
const netns = "/run/netns/pod";

interface Node extends Disposable {
  kernel: FakeKernel;
  log: KeptLog;
  verbs: Verbs;
  programs: string;
  program(name: string, sketch?: ObjectSketch, manifest?: string): void;
  request(sketch?: Partial<Sketch>): ReturnType<typeof request>;
}

function node(): Node {
  const kernel = new FakeKernel();
  kernel.namespace(netns);
  const log = keepLog();
  const programs = mkdtempSync(join(tmpdir(), `remora-verbs-${process.pid}-`));
  return {
    kernel,
    log,
    verbs: createVerbs({ kernel: () => kernel, log }),
    programs,
    program(name, sketch, manifest) {
      writeFileSync(join(programs, `${name}.bpf.o`), kernel.object(name, sketch));
      if (manifest !== undefined) writeFileSync(join(programs, `${name}.yaml`), manifest);
    },
    request: (sketch = {}) => request(programs, bpffs, { netns, ...sketch }),
    [Symbol.dispose]: () => rmSync(programs, { recursive: true, force: true }),
  };
}

async function refusal(promise: Promise<void>): Promise<RemoraError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof RemoraError) return error;
    throw error;
  }
  throw new Error("it succeeded");
}

const chain = (...programs: string[]) => programs.map((program) => ({ program }));
const names = (entries: { program: string }[] | undefined) => entries?.map(({ program }) => program);
const verifierLog = "0: (61) r0 = *(u32 *)(r9 +0)\nR9 !read_ok\nprocessed 1 insns (limit 1000000)";
const refused = {
  code: "EACCES",
  message: 'function "handle": the verifier refused it: R9 !read_ok',
  log: verifierLog,
};

test("ADD, CHECK, DEL", async () => {
  using it = node();
  it.program("a");
  it.program("b", { parameters: ["rate"] });
  const asked = it.request({
    config: { chain: chain("a") },
    annotations: { "remora.io/programs": "b", "b.remora.io/rate": "7" },
  });
  await it.verbs.add(asked);
  const [status] = listAttachments(it.kernel, bpffs);
  assert.equal(names(status?.ingress), ["a", "b"]);
  assert.equal(status?.egress[1]?.params, { rate: 7 });
  assert.match(
    it.log.lines.join("\n"),
    /debug: attached ingress a, b; egress a, b \(hook auto: tcx, this kernel has TCX\)/,
  );
  await it.verbs.check(asked);
  await it.verbs.del({ ...asked, netns: "" });
  await it.verbs.del(asked);
  assert.equal(it.kernel.left(), []);
});

test("a pod that is asked for nothing gets nothing, and CHECK agrees", async () => {
  using it = node();
  await it.verbs.add(it.request());
  assert.equal(it.kernel.left(), []);
  await it.verbs.check(it.request());
  assert.not(it.kernel.operations.some((operation) => operation.startsWith("makeDirectory")));
});

test("CHECK misses what should be there, and forgives a node whose chain has changed", async () => {
  using it = node();
  it.program("a");
  it.program("b");
  const asked = it.request({ config: { chain: chain("a") } });
  const { code: found, message } = await refusal(it.verbs.check(asked));
  assert.is(found, code.attachmentDiffers);
  assert.match(message, /nothing is attached: .* a should be attached to eth0/);
  await it.verbs.add(asked);
  await it.verbs.check(it.request({ config: { chain: chain("b", "a") } }));
});

test("an interface that is not there is named, with those that are", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ ifname: "eth1", config: { chain: chain("a") } });
  asked.prevResult.interfaces = [
    { name: "veth0", mac: "", sandbox: "" },
    { name: "net0", mac: "", sandbox: netns },
  ];
  const { code: found, message } = await refusal(it.verbs.add(asked));
  assert.is(found, code.noInterface);
  assert.match(message, /no interface eth1 in \/run\/netns\/pod: .* made net0 there/);
  assert.equal(it.kernel.left(), []);
});

test("a namespace that is not there", async () => {
  using it = node();
  it.program("a");
  const { code: found } = await refusal(
    it.verbs.add(it.request({ netns: "/run/netns/gone", config: { chain: chain("a") } })),
  );
  assert.is(found, code.invalidEnvironment);
});

test("the 33rd program is refused before anything is touched", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { chain: chain(...new Array(33).fill("a")) } });
  assert.is((await refusal(it.verbs.add(asked))).code, code.chainTooLong);
  const touching = ["makeDirectory", "createMap", "loadStage", "pin", "attachTcx", "removeDirectory"];
  assert.not(it.kernel.operations.some((operation) => touching.includes(operation.split(" ")[0] ?? "")));
});

test("the verifier's line in the message, its log in the details, nothing left", async () => {
  using it = node();
  it.program("a");
  it.program("bad", { refusal: refused });
  const error = await refusal(it.verbs.add(it.request({ config: { chain: chain("a", "bad") } })));
  assert.is(error.code, code.verifierRefused);
  assert.match(error.message, /^pod default\/web: bad [0-9a-f]{12} in the ingress chain: .*R9 !read_ok/);
  assert.is(error.details, verifierLog);
  assert.equal(it.kernel.left(), []);
});

test("what Remora refuses to load is a bad object; what libbpf says is no verifier's word", async () => {
  using it = node();
  it.program("throws", { refusal: { code: "EREFUSED", message: "it calls bpf_throw" } });
  it.program("big", { refusal: { code: "ENOMEM", message: "map too big", log: "libbpf: map 'm': failed to create" } });
  assert.is((await refusal(it.verbs.add(it.request({ config: { chain: chain("throws") } })))).code, code.badObject);
  const error = await refusal(it.verbs.add(it.request({ config: { chain: chain("big") } })));
  assert.is(error.code, code.kernelFailure);
  assert.match(error.message, /big .* could not be loaded: map too big \(ENOMEM\)/);
});

test("policy open: what does not load is left out, logged and recorded; the rest is attached", async () => {
  using it = node();
  for (const name of ["a", "c"]) it.program(name);
  it.program("bad", { refusal: refused });
  it.program("worse", { refusal: refused });
  const config = { chain: chain("a", "bad", "c", "worse"), failurePolicy: "open" } as const;
  await it.verbs.add(it.request({ config: { ...config, chain: [...config.chain] } }));
  const [status] = listAttachments(it.kernel, bpffs);
  assert.equal(names(status?.ingress), ["a", "c"]);
  // The chain is loaded from its end.
  assert.equal(names(status?.degraded), ["worse", "bad"]);
  assert.match(status?.degraded[0]?.reason ?? "", /R9 !read_ok/);
  assert.is(it.log.lines.filter((line) => line.startsWith("error: left out")).length, 2);
  const last = it.kernel.chains("egress")[0] ?? [];
  assert.equal(
    last.map(({ position, length }) => [position, length]),
    [
      [0, 2],
      [1, 2],
    ],
  );
});

test("a closed program in an open node fails the ADD, an open one in a closed node does not", async () => {
  using it = node();
  it.program("a");
  it.program("strict", { refusal: refused }, "failurePolicy: closed\n");
  it.program("lax", { refusal: refused }, "failurePolicy: open\n");
  const open = it.request({ config: { failurePolicy: "open", chain: chain("a", "strict") } });
  assert.is((await refusal(it.verbs.add(open))).code, code.verifierRefused);
  assert.equal(it.kernel.left(), []);
  await it.verbs.add(it.request({ config: { chain: chain("a", "lax") } }));
  assert.equal(names(listAttachments(it.kernel, bpffs)[0]?.degraded), ["lax"]);
});

test("at: host stands at the host's end; where there is none, the ADD fails, or an open program is left out", async () => {
  using it = node();
  it.program("a");
  it.program("wall", {}, "at: host\n");
  const asked = it.request({ config: { chain: chain("wall", "a") } });
  await it.verbs.add(asked);
  await it.verbs.check(asked);
  const places = () => listAttachments(it.kernel, bpffs)[0]?.egress.map(({ program, at }) => [program, at]);
  assert.equal(places(), [
    ["a", "pod"],
    ["wall", "host"],
  ]);
  assert.match(it.log.lines.join("\n"), /egress a; host wall/);
  await it.verbs.del(asked);
  it.kernel.withoutPeers = "macvlan";
  const { code: found, message } = await refusal(it.verbs.add(asked));
  assert.is(found, code.unsupported);
  assert.match(message, /^pod default\/web: wall: at: host, .* eth0 is a macvlan device/);
  assert.equal(it.kernel.left(), []);
  await it.verbs.add(it.request({ config: { chain: chain("wall", "a"), failurePolicy: "open" } }));
  assert.equal(places(), [["a", "pod"]]);
  assert.match(JSON.stringify(listAttachments(it.kernel, bpffs)[0]?.degraded), /"wall".*macvlan/);
});

test("a kernel before TCX: clsact is taken and says so; what stands at the host's end is refused, or left out", async () => {
  using it = node();
  it.program("a");
  it.program("wall", {}, "at: host\n");
  it.kernel.withoutTcx = true;
  await it.verbs.add(it.request({ config: { chain: chain("a") } }));
  assert.match(it.log.lines.join("\n"), /\(hook auto: clsact, this kernel has no TCX, which came with Linux 6\.6\)/);
  assert.is(listAttachments(it.kernel, bpffs)[0]?.hook, "clsact");
  await it.verbs.check(it.request());
  await it.verbs.del(it.request({ netns: "" }));
  assert.equal(it.kernel.left(), []);

  const walled = it.request({ config: { chain: chain("a", "wall") } });
  for (const refused of [it.verbs.add(walled), it.verbs.status(walled)])
    assert.match(
      (await refusal(refused)).message,
      /wall: at: host takes TCX.*this kernel has no TCX, which came with Linux 6\.6/,
    );
  assert.is((await refusal(it.verbs.add(walled))).code, code.unsupported);
  assert.equal(it.kernel.left(), []);
  const open = it.request({ config: { chain: chain("a", "wall"), failurePolicy: "open" } });
  await it.verbs.status(open);
  await it.verbs.add(open);
  const [status] = listAttachments(it.kernel, bpffs);
  assert.equal([names(status?.ingress), names(status?.degraded)], [["a"], ["wall"]]);

  const forced = await refusal(it.verbs.add(it.request({ config: { chain: chain("a"), hook: "tcx" } })));
  assert.match(forced.message, /EINVAL|Linux 6\.6/);
  it.kernel.withoutTcx = false;
  // With TCX a chain at the host's end is no reason against an ADD.
  await it.verbs.status(walled);
});

test("policy open: a node that cannot attach at all brings the pod up without, and says so", async () => {
  using it = node();
  it.program("a");
  it.kernel.withoutTcx = true;
  it.kernel.withoutClsact = true;
  const asked = it.request({ config: { failurePolicy: "open", chain: chain("a") } });
  await it.verbs.add(asked);
  const [status] = listAttachments(it.kernel, bpffs);
  assert.equal([names(status?.degraded), status?.ingress], [["a"], []]);
  await it.verbs.del(asked);
  assert.equal(it.kernel.left(), []);
  // Not even a place for the record.
  await it.verbs.add(it.request({ config: { ...asked.config, bpffs: "/nowhere" } }));
  assert.match(it.log.lines.at(-1) ?? "", /error: what is missing could not be recorded: .*mount -t bpf/);
  const strict = it.request({ config: { chain: chain("a") } });
  assert.is((await refusal(it.verbs.add(strict))).code, code.kernelTooOld);
});

test("no bpffs: the remedy is named, by ADD and by STATUS; DEL succeeds", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { bpffs: "/sys/fs/bpfs/remora", chain: chain("a") } });
  for (const verb of ["add", "status"] as const) {
    const { code: found, message } = await refusal(it.verbs[verb](asked));
    assert.is(found, code.notAvailable);
    assert.match(message, /mount -t bpf bpf/);
  }
  await it.verbs.del(asked);
});

test("DEL does not fail for what a collection can finish", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { chain: chain("a") } });
  await it.verbs.add(asked);
  it.kernel.failAt(5, "EIO");
  await it.verbs.del(asked);
  assert.match(it.log.lines.at(-1) ?? "", /^error: not everything could be removed/);
  await it.verbs.del(asked);
  assert.equal(it.kernel.left(), []);
});

test("a bpffs that has become read-only: DEL says so in the log, and does not fail", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { chain: chain("a") } });
  await it.verbs.add(asked);
  it.kernel.interfere = (operation) => {
    if (/^(openPin|removePin|removeDirectory)/.test(operation)) it.kernel.failAt(0, "EROFS");
  };
  await it.verbs.del(asked);
  assert.match(it.log.lines.at(-1) ?? "", /^error: not everything could be removed, remora gc will: .*EROFS/);
  it.kernel.interfere = undefined;
  await it.verbs.del(asked);
  assert.equal(it.kernel.left(), []);
});

test("GC keeps the valid ones; what it cannot remove it tells, and goes on", async () => {
  using it = node();
  it.program("a");
  for (const containerId of ["one", "two", "three"])
    await it.verbs.add(it.request({ containerId, config: { chain: chain("a") } }));
  const { config, cniVersion } = it.request();
  let failed = false;
  it.kernel.interfere = (operation) => {
    if (failed || !operation.startsWith("removeDirectory") || !operation.includes("/three:")) return;
    failed = true;
    it.kernel.failAt(0, "EIO");
  };
  const valid = [{ containerId: "two", ifname: "eth0" }];
  const error = await refusal(it.verbs.gc({ config, cniVersion, validAttachments: valid }));
  it.kernel.interfere = undefined;
  assert.match(error.message, /EIO/);
  await it.verbs.gc({ config, cniVersion, validAttachments: valid });
  assert.equal(
    listAttachments(it.kernel, bpffs).map(({ containerId }) => containerId),
    ["two"],
  );
});

test("STATUS: fine, and each reason why not", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { chain: chain("a") } });
  await it.verbs.status(asked);
  assert.equal(it.kernel.left(), []);

  it.kernel.failAt(3, "EPERM");
  assert.match((await refusal(it.verbs.status(asked))).message, /BPF cannot be used/);

  // Without permission nothing can be told of the bpffs, and no ADD could work.
  for (const nth of [1, 2]) {
    it.kernel.failAt(nth, "EACCES");
    const denied = await refusal(it.verbs.status(asked));
    assert.is(denied.code, code.notAvailable, `operation ${nth}`);
    assert.match(denied.message, /^no pod could be given its chain: .*EACCES/);
  }

  it.kernel.readOnly = true;
  const readOnly = await refusal(it.verbs.status(asked));
  assert.is(readOnly.code, code.notAvailable);
  assert.match(readOnly.message, /\/sys\/fs\/bpf is mounted read-only.*: mount -o remount,rw \/sys\/fs\/bpf$/);
  it.kernel.readOnly = false;

  const missing = it.request({ config: { chain: chain("a", "gone") } });
  const error = await refusal(it.verbs.status(missing));
  assert.is(error.code, code.notAvailable);
  assert.match(error.message, /gone/);
  // Where it may be missing, ADD works without.
  await it.verbs.status(it.request({ config: { chain: chain("gone"), failurePolicy: "open" } }));

  const tooLong = it.request({ config: { chain: chain(...new Array(33).fill("a")) } });
  assert.match((await refusal(it.verbs.status(tooLong))).message, /at most 32/);

  it.kernel.withoutTcx = true;
  await it.verbs.status(asked);
  const old = await refusal(it.verbs.status(it.request({ config: { ...asked.config, hook: "tcx" } })));
  assert.is(old.code, code.notAvailable);
  assert.match(old.message, /no TCX, which came with Linux 6\.6/);
  // Pods without programs start there all the same.
  await it.verbs.status(it.request());
  await it.verbs.status(it.request({ config: { chain: chain("a"), failurePolicy: "open" } }));
  it.kernel.withoutTcx = false;

  chmodSync(it.programs, 0o777);
  const untrusted = await refusal(it.verbs.status(it.request()));
  assert.is(untrusted.code, code.notAvailable);
  assert.match(untrusted.message, /not to be trusted/);
  chmodSync(it.programs, 0o755);
});

test("an ADD that fails at any operation is one RemoraError, and leaves nothing once DEL has come", async () => {
  using it = node();
  it.program("a");
  const asked = it.request({ config: { chain: chain("a", "a") } });
  const before = it.kernel.operations.length;
  await it.verbs.add(asked);
  const operations = it.kernel.operations.length - before;
  await it.verbs.del(asked);
  for (let nth = 1; nth <= operations; nth++) {
    it.kernel.failAt(nth, "ENOMEM");
    try {
      await it.verbs.add(asked);
    } catch (error) {
      assert.instance(error, RemoraError, String(error));
      assert.match((error as Error).message, /ENOMEM/);
      assert.equal(it.kernel.left(), [], `operation ${nth}`);
    }
    it.kernel.calm();
    await it.verbs.del(asked);
    assert.equal(it.kernel.left(), [], `operation ${nth}`);
  }
});

test("an object file is read once, and the kernel asked for nothing an ADD does not need", async () => {
  using it = node();
  mkdirSync(join(it.programs, "sub"));
  for (const name of ["a", "unused"]) it.program(name);
  await it.verbs.add(it.request({ config: { chain: chain("a", "a") } }));
  assert.is(it.kernel.operations.filter((operation) => operation === "inspectObject").length, 1);
});

test("kernel errors in words", () => {
  assert.ok(hasTcx("6.6.0") && hasTcx("6.18.5-amd64") && hasTcx("7.0"));
  assert.not(hasTcx("6.5.13") || hasTcx("5.10.0-30-amd64"));
  const one = asRemoraError(new KernelError("pin", "ENOSPC", "x was not pinned"));
  assert.is((one as RemoraError).message, "x was not pinned (ENOSPC)");
  const log =
    "tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls\nprocessed 0 insns (limit 1000000)\n";
  const selected = { program: { name: "count", version: "1" } } as Selected;
  const refused = new KernelError("loadStage", "EINVAL", "the verifier refused it", log);
  const unmixed = asRemoraError(new EntryFailed(selected, "egress", "count_egress", refused)) as RemoraError;
  assert.is(unmixed.code, code.kernelTooOld);
  assert.match(unmixed.message, /^count 1 in the egress chain: .* on arm64 since 6\.0; this node runs Linux /);
  assert.is(unmixed.details, log);
  const bug = new TypeError("oops");
  assert.is(asRemoraError(bug), bug);
  const joined = joinErrors([new KernelError("a", "EIO", "one"), new KernelError("b", "EPERM", "two")]);
  assert.match((joined as Error).message, /one \(EIO\); two \(EPERM\)/);
});

test.run();
