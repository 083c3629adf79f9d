// SPDX-License-Identifier: Apache-2.0
/** `top` over the fake kernel and a clock of the test's own. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attach } from "../chain/attach.ts";
import { bpffs, id, input, machine, select } from "../chain/fixture.ts";
import { pinsOf } from "../chain/pins.ts";
import { plan } from "../chain/plan.ts";
import type { FakeKernel } from "../kernel/fake.ts";
import { counterLayout, endings } from "../kernel/port.ts";
import type { Io, Watch } from "./command.ts";
import { type Rated, rate, short } from "./rates.ts";
import { run } from "./run.ts";
import { renderTop } from "./top.ts";

type Happening = "elapsed" | "stopped" | { key: string };

/** A watch whose pauses take no time; `script` says how each ends, and may change the counters. */
function fakeWatch(script: ((left: number) => Happening)[]): Watch & { disposed: boolean } {
  let time = 0;
  return {
    stopped: false,
    disposed: false,
    now: () => time,
    monotonic: () => BigInt(time) * 1_000_000n,
    date: () => Date.UTC(2026, 0, 1) + time,
    size: () => ({ columns: 100, rows: 10 }),
    async pause(milliseconds) {
      const step = script.shift();
      if (!step) throw new Error("paused once too often");
      const how = step(milliseconds);
      if (how === "elapsed") time += milliseconds;
      return how;
    },
    [Symbol.dispose]() {
      this.disposed = true;
    },
  };
}

async function top(kernel: FakeKernel, watch: Watch, argv: string[], more: Partial<Io> = {}) {
  const written: string[] = [];
  let stderr = "";
  const io: Io = {
    stdout: (text) => void written.push(text),
    stderr: (text) => {
      stderr += text;
    },
    isTerminal: false,
    columns: 0,
    watch: async () => watch,
    ...more,
  };
  const status = await run(["top", ...argv], io, { kernel: async () => kernel, root: "/nowhere" });
  return { status, written, stderr };
}

const shot = counterLayout.endings + endings.indexOf("shot");
const counters = pinsOf(bpffs, id).direction(1, "ingress").counters;

function attached(): FakeKernel {
  const kernel = machine();
  const selected = ["count", "acl"].map((name) => select(kernel, name, { directions: ["ingress"] }));
  attach(kernel, plan(input(kernel, selected)));
  return kernel;
}

/** So many packets of 1000 bytes have reached the chain; so many of them acl has dropped. */
function traffic(kernel: FakeKernel, packets: number, dropped: number): void {
  kernel.count(counters, 0, { [counterLayout.headPackets]: packets, [counterLayout.headBytes]: packets * 1000 });
  kernel.count(counters, 1, { [shot]: dropped, [counterLayout.endedBytes]: dropped * 1000 });
}

test("in a pipe each picture is a block, after its interval", async () => {
  const kernel = attached();
  traffic(kernel, 100, 0);
  const watch = fakeWatch([
    () => {
      traffic(kernel, 3100, 500);
      return "elapsed";
    },
    () => "elapsed",
  ]);
  const { status, written, stderr } = await top(kernel, watch, ["--interval", "2", "--count", "2"]);
  assert.is(status, 0, stderr);
  assert.is(
    written[0],
    `1 pod, 2 programs: 1.5k packets/s, 12.0Mbit/s, 250 drops/s
pod          if        program  >packets/s  bits/s  drops/s  packets  dropped
default/web  eth0  in  count          1.5k   12.0M        0     3.1k        0
default/web  eth0  in  acl            1.5k   12.0M      250     3.1k      500

`,
  );
  assert.match(written[1] ?? "", /^1 pod, 2 programs: 0 packets\/s, 0bit\/s, 0 drops\/s\n/);
  assert.is(written.length, 2);
  assert.ok(watch.disposed);
});

test("sorted by what is dropped", async () => {
  const kernel = attached();
  const watch = fakeWatch([
    () => {
      traffic(kernel, 10, 5);
      return "elapsed";
    },
  ]);
  const { written } = await top(kernel, watch, ["web", "--count", "1", "--sort", "drops"]);
  const programs = (written[0] ?? "").split("\n").slice(2, 4);
  assert.match(programs[0] ?? "", / acl /);
  assert.match(programs[1] ?? "", / count /);
});

test("--json is one object a line", async () => {
  const kernel = attached();
  const watch = fakeWatch([
    () => {
      traffic(kernel, 30, 3);
      return "elapsed";
    },
  ]);
  const { written } = await top(kernel, watch, ["--json", "--count", "1", "--interval", "0.5"], { isTerminal: true });
  assert.is(written.length, 1);
  const { time, seconds, programs } = JSON.parse(written[0] ?? "");
  assert.is(time, "2026-01-01T00:00:00.500Z");
  assert.is(seconds, 0.5);
  assert.equal(programs[1], {
    containerId: id.containerId,
    pod: { namespace: "default", name: "web", uid: "u1" },
    ifname: "eth0",
    direction: "ingress",
    position: 1,
    program: "acl",
    at: "pod",
    packets: 30,
    bytes: 30000,
    dropped: 3,
    broken: 0,
    packetsPerSecond: 60,
    bitsPerSecond: 480000,
    droppedPerSecond: 6,
  });
});

test("a terminal is drawn over in place, obeys keys, and gets its screen back", async () => {
  const kernel = attached();
  const watch = fakeWatch([
    () => {
      traffic(kernel, 10, 5);
      return "elapsed";
    },
    () => ({ key: "d" }),
    () => "stopped",
  ]);
  const { status, written } = await top(kernel, watch, [], { isTerminal: true, columns: 100, env: { NO_COLOR: "1" } });
  assert.is(status, 0);
  assert.is(written[0], "\x1b[?1049h\x1b[?25l");
  assert.is(written.at(-1), "\x1b[?25h\x1b[?1049l");
  const pictures = written.slice(1, -1);
  assert.is(pictures.length, 3);
  for (const picture of pictures) {
    assert.ok(picture.startsWith("\x1b[?2026h\x1b[H") && picture.endsWith("\x1b[J\x1b[?2026l"));
    assert.not.match(picture, "\x1b[2J");
    assert.not.match(picture, /[^\r]\n/);
  }
  assert.match(pictures[0] ?? "", /count +- +- +- +0 +0/);
  assert.match(pictures[1] ?? "", />packets\/s/);
  assert.match(pictures[2] ?? "", />drops\/s/);
});

test("what is dropped now is painted", () => {
  const row: Rated = { ...line, program: "guard", dropped: 9, droppedPerSecond: 4, broken: 2 };
  const painted: string[] = [];
  renderTop([row], "drops", {
    width: 100,
    paint(text, tone) {
      if (tone === "bad") painted.push(text);
      return text;
    },
  });
  assert.equal(painted, ["guard", "4", "2"]);
});

const line: Rated = {
  containerId: "c".repeat(64),
  pod: { namespace: "n".repeat(60), name: "p".repeat(60), uid: "" },
  ifname: "eth0",
  direction: "egress",
  position: 0,
  program: "a-program-with-a-rather-long-name",
  at: "host",
  packets: 1e15,
  bytes: 1e18,
  dropped: 1e12,
  broken: 1e12,
  packetsPerSecond: 987654321,
  bitsPerSecond: 1e13,
  droppedPerSecond: 1234567,
};

test("no line is wider than the page", () => {
  for (const each of renderTop([line, { ...line, pod: null }], "chain", { width: 100, paint: (text) => text }))
    assert.ok(each.length <= 100, each);
});

test("rates need two looks at the same chain", () => {
  assert.is(rate(undefined, { time: 5, attachments: [] }).length, 0);
  const kernel = attached();
  assert.ok(kernel);
  const entry = { program: "a", at: "pod", version: "", sha256: "", priority: 0, params: {}, proceeded: 0 } as const;
  const attachment = (packets: number) => ({
    containerId: "c",
    netns: "",
    ifname: "eth0",
    pod: null,
    hook: "tcx" as const,
    generation: 1,
    degraded: [],
    ingress: [{ ...entry, packets, bytes: packets, ended: {} }],
    egress: [],
  });
  const at = (time: number, packets: number) => ({ time, attachments: [attachment(packets)] });
  assert.is(rate(undefined, at(0, 5))[0]?.packetsPerSecond, undefined);
  assert.is(rate(at(0, 5), at(500, 10))[0]?.packetsPerSecond, 10);
  assert.is(rate(at(0, 5), at(500, 4))[0]?.packetsPerSecond, undefined);
  assert.is(rate(at(0, 5), at(0, 9))[0]?.packetsPerSecond, undefined);
});

for (const [number, text] of [
  [0, "0"],
  [7, "7"],
  [2.5, "2.5"],
  [999, "999"],
  [999.6, "1.0k"],
  [1234, "1.2k"],
  [99949, "100k"],
  [99449, "99.4k"],
  [340e6, "340M"],
  [1e15, "1.0P"],
] as const)
  test(`${number} is ${text}`, () => {
    assert.is(short(number), text);
  });

test("what makes no sense is told", async () => {
  for (const argv of [
    ["--interval", "0"],
    ["--count", "1.5"],
    ["--sort", "colour"],
  ]) {
    const { status, stderr } = await top(attached(), fakeWatch([]), argv);
    assert.is(status, 2);
    assert.match(stderr, argv[0] ?? "");
  }
});

test.run();
