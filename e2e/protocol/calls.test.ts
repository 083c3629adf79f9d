// SPDX-License-Identifier: Apache-2.0
/** The verbs through the executable, on the real kernel: what each answers, and that a failure leaves nothing. */
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { failure, result, shell, silence } from "./executable.ts";
import { annotated, type Pod, pins, pod } from "./pod.ts";

const counted = annotated({ "remora.io/programs": "count" });
const nothing = (place: Pod): void => assert.equal(pins(place.bpffs), []);

test("ADD, CHECK, DEL: the whole life, and nothing after it", () => {
  using world = scratch();
  const place = pod(world);
  assert.equal(result(place.call("ADD", counted)), place.configuration.prevResult);
  assert.is(place.attached(), 2);
  silence(place.call("CHECK", counted));
  silence(place.call("STATUS"));
  silence(place.call("DEL", counted));
  assert.is(place.attached(), 0);
  nothing(place);
  silence(place.call("DEL", counted));
});

test("a DEL without namespace, prevResult, or anything to remove", () => {
  using world = scratch();
  const place = pod(world);
  result(place.call("ADD", counted));
  silence(place.call("DEL", { prevResult: undefined }, { CNI_NETNS: "", CNI_ARGS: undefined }));
  nothing(place);
  silence(place.call("DEL", { prevResult: undefined }, { CNI_NETNS: "/run/netns/gone" }));
  silence(place.call("DEL", { bpffs: join(world.dir, "no-bpffs") }, { CNI_CONTAINERID: "never-was" }));
});

test("an ADD of nothing is an ADD", () => {
  using world = scratch();
  const place = pod(world);
  assert.equal(result(place.call("ADD")), place.configuration.prevResult);
  silence(place.call("CHECK"));
  assert.is(place.attached(), 0);
  silence(place.call("DEL"));
});

test("CHECK says what differs", () => {
  using world = scratch();
  const place = pod(world);
  const never = failure(place.call("CHECK", counted));
  assert.is(never.code, 110);
  assert.match(never.msg, /nothing is attached/);
  result(place.call("ADD", counted));
  for (const path of pins(place.bpffs).filter((pin) => pin.endsWith("link_egress"))) rmSync(join(place.bpffs, path));
  assert.is(failure(place.call("CHECK", counted)).code, 110);
  silence(place.call("DEL"));
});

test("GC keeps what is named, for its own network only", () => {
  using world = scratch();
  const place = pod(world);
  result(place.call("ADD", counted));
  const id = { containerID: place.env.CNI_CONTAINERID, ifname: "eth0" };
  const gc = (name: string, key: string, valid: object[]) => silence(place.call("GC", { name, [key]: valid }));
  gc("pods", "cni.dev/valid-attachments", [id]);
  gc("another", "cni.dev/valid-attachments", []);
  gc("pods", "cni.dev/attachments", [id]);
  silence(place.call("GC"));
  assert.is(place.attached(), 2);
  gc("pods", "cni.dev/attachments", [{ ...id, ifname: "eth1" }]);
  assert.is(place.attached(), 0);
  nothing(place);
});

test("the result keeps every digit and every key, and a late reader gets all of a long one", () => {
  using world = scratch();
  const place = pod(world);
  const file = join(world.dir, "configuration");
  const cargo = `{"cniVersion":"1.1.0","vendor":{"id":18446744073709551615,"x":1.0,"long":"${"y".repeat(300_000)}"}}`;
  const text = JSON.stringify({ ...place.configuration, prevResult: 0 }).replace(
    '"prevResult":0',
    `"prevResult":${cargo}`,
  );
  writeFileSync(file, text);
  const { stdout } = shell('"$0" < "$1" | { sleep 0.5; cat; }', { CNI_COMMAND: "ADD", ...place.env }, file);
  assert.is(stdout, `${cargo}\n`);
});

test("every version of the specification answers in its own", () => {
  using world = scratch();
  const place = pod(world);
  for (const cniVersion of ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]) {
    const prevResult = { ...place.configuration.prevResult, cniVersion };
    assert.equal(result(place.call("ADD", { cniVersion, prevResult, ...counted })), prevResult);
    silence(place.call("DEL", { cniVersion }));
  }
});

interface Wrong {
  name: string;
  code: number;
  says: RegExp;
  configuration?: Record<string, unknown>;
  env?: Record<string, string>;
  spoil?: (place: Pod) => void;
}
// biome-ignore format: a table reads by lines
const wrong: Wrong[] = [
  { name: "no interface of that name", code: 104, says: /no interface eth7 in .*made eth0 there/, env: { CNI_IFNAME: "eth7" } },
  { name: "no such namespace", code: 4, says: /CNI_NETNS: there is no network namespace at/, env: { CNI_NETNS: "/run/netns/remora-there-is-none" } },
  { name: "a namespace that is a file", code: 4, says: /CNI_NETNS: there is no network namespace at/, env: { CNI_NETNS: "/etc/hostname" } },
  { name: "an unknown program", code: 100, says: /annotation remora\.io\/programs.*"?contu"?/, configuration: annotated({ "remora.io/programs": "contu" }) },
  { name: "an unknown program in the node's chain", code: 100, says: /chain\[0\]/, configuration: { chain: [{ program: "contu" }] } },
  { name: "a program that the namespace may not have", code: 101, says: /shop/, configuration: { allow: { "*": ["*"], shop: ["acl"] }, ...counted } },
  { name: "a parameter that the program does not have", code: 102, says: /count\.remora\.io\/rate/, configuration: annotated({ "remora.io/programs": "count", "count.remora.io/rate": "10Mbit" }) },
  { name: "a parameter of a program that is not selected", code: 106, says: /acl\.remora\.io/, configuration: annotated({ "remora.io/programs": "count", "acl.remora.io/default": "deny" }) },
  { name: "an annotation that is no list", code: 106, says: /remora\.io\/programs/, configuration: annotated({ "remora.io/programs": "[{" }) },
  { name: "a program folder that everybody may write to", code: 108, says: /mode 0777 lets everybody write/, configuration: counted, spoil: ({ programs }) => chmodSync(programs, 0o777) },
  { name: "a program that everybody may write to", code: 108, says: /mode 0666 lets everybody write/, configuration: counted, spoil: ({ programs }) => chmodSync(join(programs, "count.bpf.o"), 0o666) },
  { name: "an object that is no ELF", code: 107, says: /count/, configuration: counted, spoil: ({ programs }) => writeFileSync(join(programs, "count.bpf.o"), "not an object") },
  { name: "a manifest that is no YAML", code: 112, says: /count\.yaml/, configuration: counted, spoil: ({ programs }) => writeFileSync(join(programs, "count.yaml"), "version: [") },
  { name: "no bpffs", code: 50, says: /not on a bpffs.*mount -t bpf/, configuration: { ...counted, bpffs: "/tmp/remora-no-bpffs" } },
];
for (const { name, code, says, configuration = counted, env = {}, spoil = () => {} } of wrong)
  test(`ADD fails and leaves nothing: ${name}`, () => {
    using world = scratch();
    const place = pod(world);
    spoil(place);
    const answer = place.call("ADD", configuration, env);
    const error = failure(answer);
    assert.match(error.msg, says);
    assert.is(error.code, code, error.msg);
    assert.is(answer.stderr, "");
    assert.is(place.attached(), 0);
    nothing(place);
    // What the runtime does next.
    silence(place.call("DEL", { ...configuration, prevResult: undefined }, env));
  });

test("STATUS says why no ADD could work", () => {
  using world = scratch();
  const place = pod(world);
  silence(place.call("STATUS"));
  const without = failure(place.call("STATUS", { bpffs: join(world.dir, "none") }));
  assert.equal([without.code, /not on a bpffs/.test(without.msg)], [50, true]);
  chmodSync(place.programs, 0o777);
  const open = failure(place.call("STATUS"));
  assert.equal([open.code, /0777/.test(open.msg)], [50, true]);
});

test("failurePolicy open: the pod comes up, and the log says what is missing", () => {
  using world = scratch();
  const place = pod(world);
  const answer = place.call("ADD", { failurePolicy: "open", ...annotated({ "remora.io/programs": "contu" }) });
  assert.equal(result(answer), place.configuration.prevResult);
  const [line] = answer.stderr.split("\n");
  assert.match(JSON.parse(line ?? "").msg, /contu/);
});

test("the log goes where it is told, or to stderr, and nowhere else", () => {
  using world = scratch();
  const place = pod(world);
  const file = join(world.dir, "remora.log");
  const secret = annotated({ "remora.io/programs": "count", "example.com/token": "s3cret" });
  const quiet = place.call("ADD", { ...secret, log: { level: "debug", file } });
  assert.is(quiet.stderr, "");
  result(quiet);
  mkdirSync(join(world.dir, "folder"));
  const loud = place.call("DEL", { ...secret, log: { level: "debug", file: join(world.dir, "folder") } });
  silence(loud);
  assert.match(loud.stderr, /log file cannot be written.*EISDIR/);
  assert.not.match(loud.stderr + shell('cat "$1"', {}, file).stdout, /s3cret/);
});

test.run();
