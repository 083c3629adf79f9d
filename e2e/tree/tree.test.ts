// SPDX-License-Identifier: Apache-2.0
/**
 * The installation tree as another machine gets it: copied into a folder that holds nothing else, which becomes the
 * root of its process, with /proc, /sys, a bpffs and the network namespaces mounted there.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { holdsPath } from "../../scripts/make/step.ts";
import { run, scratch } from "../lib/scratch.ts";

const repository = resolve(import.meta.dirname, "../..");
const dist = join(repository, "dist");

const world = scratch();
const root = join(world.dir, "root");
for (const folder of ["", "proc", "sys", "netns"]) mkdirSync(join(root, folder));
cpSync(dist, root, { recursive: true });
const bpffs = world.bpffs();

/** Runs the launcher in the empty root. The mounts are in a namespace of their own and go with the process. */
function inside(env: Record<string, string>, stdin: string, ...args: string[]) {
  const script = `
    mount --rbind /proc "$0/proc"; mount --rbind /sys "$0/sys"; mount --bind "$1" "$0/sys/fs/bpf"
    if [ -d /run/netns ]; then mount --rbind /run/netns "$0/netns"; fi
    root=$0; shift; exec chroot "$root" /remora "$@"`;
  const { status, stdout, stderr } = spawnSync(
    "unshare",
    ["--mount", "--propagation", "private", "sh", "-ec", script, root, bpffs, ...args],
    { env: { PATH: process.env.PATH, ...env } as NodeJS.ProcessEnv, input: stdin, encoding: "utf8" },
  );
  return { status, stdout, stderr };
}

const filesOf = (folder: string): string[] => (readdirSync(folder, { recursive: true }) as string[]).sort();

test("the tree is a launcher, a runtime and programs, and nothing else", () => {
  assert.equal(readdirSync(dist).sort(), ["programs", "remora", "runtime"]);
  const others = readdirSync(join(dist, "runtime")).filter((name) => !/^(ld-linux|lib)[\w+.-]*\.so\.\d+$/.test(name));
  // Run in place, the runtime has put its addon beside itself.
  assert.equal(
    others.filter((name) => !/^remora-[0-9a-f]{16}\.node$/.test(name)),
    ["remora-runtime"],
  );
});

test("the launcher is static and below a megabyte, and every file may be read by all and written by its owner", () => {
  assert.ok(statSync(join(dist, "remora")).size < 1 << 20);
  const segments = run("readelf", "--program-headers", "--wide", join(dist, "remora"));
  assert.not.match(segments, /INTERP|DYNAMIC/);
  for (const name of filesOf(dist)) {
    const { mode } = statSync(join(dist, name));
    assert.is(mode & 0o444, 0o444, name);
    assert.is(mode & 0o022, 0, name);
  }
});

test("no file holds the path of the build machine", () => {
  for (const name of filesOf(dist)) {
    const path = join(dist, name);
    if (statSync(path).isFile()) assert.not.ok(holdsPath(readFileSync(path), repository), name);
  }
});

test("in an empty root it answers VERSION and --help, and writes nothing", () => {
  const before = filesOf(root);
  const version = inside({ CNI_COMMAND: "VERSION" }, '{"cniVersion":"1.0.0"}');
  assert.equal([version.status, version.stderr], [0, ""]);
  assert.equal(JSON.parse(version.stdout).supportedVersions, ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
  const help = inside({}, "", "--help");
  assert.is(help.status, 0);
  assert.match(help.stdout, /Usage: remora COMMAND/);
  assert.equal(filesOf(root), before);
});

test("in an empty root, ADD attaches a chain that packets meet, and DEL takes it away", () => {
  const before = filesOf(root);
  const pinsBefore = filesOf(bpffs);
  const pod = world.namespace();
  const peer = world.namespace();
  world.veth(
    { namespace: pod, ifname: "eth0", addresses: ["10.9.8.1/24"] },
    { namespace: peer, ifname: "veth0", addresses: ["10.9.8.2/24"] },
  );
  const config = {
    cniVersion: "1.0.0",
    name: "tree",
    type: "remora",
    programDirs: ["/programs"],
    bpffs: "/sys/fs/bpf/remora",
    chain: [{ program: "count" }],
    prevResult: {
      cniVersion: "1.0.0",
      interfaces: [{ name: "eth0", sandbox: `/netns/${pod.name}` }],
      ips: [{ address: "10.9.8.1/24", interface: 0 }],
    },
  };
  const verb = (CNI_COMMAND: string) =>
    inside(
      {
        CNI_COMMAND,
        CNI_CONTAINERID: "tree-test",
        CNI_NETNS: `/netns/${pod.name}`,
        CNI_IFNAME: "eth0",
        CNI_PATH: "/",
      },
      JSON.stringify(config),
    );

  const add = verb("ADD");
  assert.is(add.status, 0, add.stdout + add.stderr);
  assert.equal(JSON.parse(add.stdout), config.prevResult);

  peer.exec("ping", "-c", "3", "-i", "0.01", "-W", "5", "10.9.8.1");
  const status = inside({}, "", "status", "--json");
  assert.is(status.status, 0, status.stderr);
  const [attachment] = JSON.parse(status.stdout).attachments;
  for (const direction of ["ingress", "egress"]) {
    assert.is(attachment[direction][0].program, "count");
    assert.ok(attachment[direction][0].packets >= 3);
  }

  const del = verb("DEL");
  assert.equal([del.status, del.stdout], [0, ""], del.stderr);
  assert.equal(
    filesOf(bpffs).filter((name) => name !== "remora"),
    pinsBefore,
  );
  const added = filesOf(root).filter((name) => !before.includes(name));
  assert.is(added.filter((name) => !/^runtime\/remora-[0-9a-f]{16}\.node$/.test(name)).length, 0, added.join());
});

test("variables that steer Node, the loader or the C library change nothing", () => {
  const ask = (env: Record<string, string>) =>
    spawnSync(join(root, "remora"), [], { env: { CNI_COMMAND: "VERSION", ...env }, input: "{}", encoding: "utf8" });
  const plain = ask({});
  assert.is(plain.status, 0);
  const hostile = ask({
    NODE_OPTIONS: "--require=/nonexistent",
    NODE_PATH: "/nonexistent",
    NODE_V8_COVERAGE: join(world.dir, "coverage"),
    NODE_DEBUG: "fs,module",
    LD_PRELOAD: "/nonexistent.so",
    LD_LIBRARY_PATH: "/nonexistent",
    LD_DEBUG: "all",
    LD_BIND_NOW: "1",
    GLIBC_TUNABLES: "glibc.malloc.check=3",
    OPENSSL_CONF: "/nonexistent",
  });
  assert.equal([hostile.status, hostile.stdout, hostile.stderr], [0, plain.stdout, ""]);
  assert.not.ok(existsSync(join(world.dir, "coverage")));
});

test.run();
