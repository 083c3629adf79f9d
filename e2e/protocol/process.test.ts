// SPDX-License-Identifier: Apache-2.0
/** The process around the protocol: every kind of stdin and stdout, and one object whatever comes. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { scratch } from "../lib/scratch.ts";
import { type Answer, executable, failure, result, shell, silence } from "./executable.ts";

/** A call that needs stdin and then succeeds, or is refused for what stdin holds: a DEL of what never was. */
const del = (bpffs: string) => ({
  env: {
    CNI_COMMAND: "DEL",
    CNI_CONTAINERID: "c0ffee",
    CNI_IFNAME: "eth0",
    CNI_PATH: "/opt/cni/bin",
  },
  configuration: JSON.stringify({ cniVersion: "1.0.0", name: "pods", type: "remora", bpffs }),
});

// The tests run when this module has ended: the end of the process takes it away.
const place = scratch();
/** These wait for the deadline while the other tests run. */
const late = {
  socket: unended(executable),
  pipe: unended(
    "/bin/sh",
    "-c",
    'mkfifo "$1"; sleep 30 > "$1" & writer=$!; echo "{" > "$1" & "$0" < "$1"; status=$?; kill $writer; exit $status',
    executable,
    join(place.dir, "pipe"),
  ),
};

/** A command whose stdin is a socket that stays open. */
async function unended(command: string, ...args: string[]): Promise<Answer> {
  const child = spawn(command, args, {
    env: { PATH: process.env.PATH, ...del("/nowhere").env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const)
    child[stream].on("data", (data) => {
      said[stream] += data;
    });
  child.stdin.write("{");
  const [status] = await once(child, "close");
  return { ...said, status };
}

test("stdin is a file, a pipe, a slow pipe, a named pipe", () => {
  using world = scratch();
  const { env, configuration } = del(world.bpffs());
  const file = join(world.dir, "configuration");
  writeFileSync(file, configuration);
  silence(shell('"$0" < "$1"', env, file));
  silence(shell('cat "$1" | "$0"', env, file));
  silence(shell('{ head -c 10 "$1"; sleep 0.3; tail -c +11 "$1"; } | "$0"', env, file));
  silence(shell('mkfifo "$1.pipe"; cat "$1" > "$1.pipe" & "$0" < "$1.pipe"', env, file));
});

test("stdin is a file that was read from before", () => {
  using world = scratch();
  const { env, configuration } = del(world.bpffs());
  const file = join(world.dir, "configuration");
  writeFileSync(file, `a line\n${configuration}`);
  silence(shell('{ read -r line; "$0"; } < "$1"', env, file));
});

test("stdin is a socket", async () => {
  using world = scratch();
  const { env, configuration } = del(world.bpffs());
  const child = spawn(executable, { env, stdio: ["pipe", "pipe", "pipe"] });
  let stdout = "";
  child.stdout.on("data", (data) => {
    stdout += data;
  });
  child.stdin.end(configuration);
  const [status] = await once(child, "close");
  assert.equal([stdout, status], ["", 0]);
});

test("stdin is empty, closed, a folder, without end", () => {
  const { env } = del("/nowhere");
  assert.is(failure(shell('"$0" < /dev/null', env)).code, 6);
  assert.is(failure(shell('"$0" <&-', env)).code, 6);
  assert.is(failure(shell('"$0" < /', env)).code, 6);
  const endless = failure(shell('yes | "$0"', env));
  assert.is(endless.code, 6);
  assert.match(endless.msg, /^stdin: .* longer than 16 MiB$/);
});

test("VERSION does not look at stdin: one that stays open holds nobody up", () => {
  using world = scratch();
  const script = 'mkfifo "$1"; sleep 30 > "$1" & writer=$!; "$0" < "$1"; status=$?; kill $writer; exit $status';
  const { supportedVersions } = result(shell(script, { CNI_COMMAND: "VERSION" }, join(world.dir, "pipe")));
  assert.equal(supportedVersions, ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
});

test("bytes that are no UTF-8 arrive as something, and are answered", () => {
  const { env } = del("/nowhere");
  const answer = failure(shell(`printf '{"cniVersion":"1.0.0","name":"\\xff\\xfe"}' | "$0"`, env));
  assert.is(answer.code, 7);
});

test("an answer that cannot be delivered is a failure", () => {
  const { env } = del("/nowhere");
  for (const script of ['"$0" < /dev/null > /dev/full', '"$0" < /dev/null >&-', '"$0" < /dev/null > >(exit)']) {
    const { status, stdout } = shell(script, env);
    assert.equal([status, stdout], [1, ""], script);
  }
  assert.is(shell('"$0" > /dev/full', { CNI_COMMAND: "VERSION" }).status, 1);
});

test("the environment of Node is not ours", () => {
  const { env } = del("/nowhere");
  for (const NODE_OPTIONS of ["--require=/nowhere.js", "--inspect-brk=127.0.0.1:0", "--nonsense"])
    assert.is(failure(shell('"$0" < /dev/null', { ...env, NODE_OPTIONS })).code, 6);
});

for (const [what, answer] of Object.entries(late))
  test(`a ${what} that stays open is an error after 10 s`, async () => {
    const { code, msg } = failure(await answer);
    assert.is(code, 5);
    assert.match(msg, /^stdin: .* did not end within 10 s/);
  });

test.run();
