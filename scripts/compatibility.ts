// SPDX-License-Identifier: Apache-2.0
/**
 * Other people's TC objects, unmodified, in a chain between two of Remora's own, with real packets through it:
 *
 *     node scripts/compatibility.ts FOLDER [--json] [--only TEXT]
 *
 * FOLDER holds NAME.bpf.o files, each with its manifest NAME.yaml beside it where one is needed. Each object is inspected
 * and then attached by `dist/remora attach` to a veth pair between two namespaces of this script's own, as
 * [count, theirs, count]; ping, TCP and UDP go through over IPv4 and IPv6. Where it is not clear which function is meant
 * for which direction, each TC function is tried with a manifest that names it.
 *
 * An entry `runs` if it was loaded and attached, if it met each packet that the count before it let go on, and if the count
 * after it met each packet that it let go on itself: what it does to packets beyond that is its own business, and shown
 * beside it. Prints a table in Markdown; exit status 1 where an object did not run.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type Namespace, type Scratch, scratch } from "../e2e/lib/scratch.ts";
import type { ObjectView } from "../plugin/cli/inspect.ts";
import type { AttachmentStatus } from "../plugin/model.ts";

const root = resolve(import.meta.dirname, "..");
const executable = join(root, "dist/remora");
const suffix = ".bpf.o";
const directions = ["ingress", "egress"] as const;
type Direction = (typeof directions)[number];

/** What one way of running an object came to. */
interface Trial {
  functions: Partial<Record<Direction, string>>;
  sections: string[];
  /** The manifest it needed, "" for none. */
  manifest: string;
  runs: boolean;
  /** What a user sees where it does not run, else what it did to the packets. */
  said: string;
  /** What came through: of ping, tcp, udp, each over both families. */
  through: string[];
}
export interface Row {
  object: string;
  maps: string[];
  trials: Trial[];
  /** Why there was none. */
  refused: string;
}

interface Place {
  world: Scratch;
  outside: Namespace;
  inside: Namespace;
}

const addresses = { outside: ["10.77.0.1", "fd77::1"], inside: ["10.77.0.2", "fd77::2"] } as const;
const port = 7777;

function remora(...args: string[]): { status: number; stdout: string; stderr: string } {
  const child = spawnSync(executable, args, { encoding: "utf8", timeout: 120_000, maxBuffer: 64 << 20 });
  if (child.error) throw child.error;
  return { status: child.status ?? 1, stdout: child.stdout, stderr: child.stderr.trim() };
}

/** What a user reads first. */
const firstLine = (text: string): string => text.replace(/^remora \w+: /, "").split("\n")[0] ?? "";

const echo = `
  const { createServer } = require("net");
  createServer((socket) => { socket.pipe(socket); socket.on("error", () => {}); }).listen(${port}, "::", () => {
    const udp = require("dgram").createSocket("udp6");
    udp.on("message", (data, from) => udp.send(data, from.port, from.address, () => {}));
    udp.bind(${port}, "::", () => console.log("listening"));
  });`;
/** Prints what came back: `ping4 tcp4 udp4 ping6 tcp6 udp6` at most; what has not within two seconds does not come at all. */
const ask = (targets: readonly string[]): string => `
  const bytes = 50000, done = [];
  const tries = ${JSON.stringify(targets)}.flatMap((address) => {
    const family = address.includes(":") ? 6 : 4;
    const came = (what, end) => { done.push(what + family); end(); };
    const ping = new Promise((end) => {
      const child = require("child_process").spawn("ping", ["-c", "2", "-i", "0.05", "-W", "1", address], { stdio: "ignore" });
      child.on("close", (status) => status === 0 ? came("ping", end) : end());
    });
    const tcp = new Promise((end) => {
      let got = 0;
      const socket = require("net").connect(${port}, address, () => socket.end(Buffer.alloc(bytes)));
      socket.on("data", (data) => { got += data.length; if (got === bytes) came("tcp", end); });
      socket.on("error", () => end());
    });
    const udp = new Promise((end) => {
      const socket = require("dgram").createSocket("udp" + family);
      socket.on("message", () => came("udp", end));
      socket.on("error", () => end());
      socket.send("hello", ${port}, address);
    });
    return [ping, tcp, udp];
  });
  Promise.race([Promise.all(tries), new Promise((end) => setTimeout(end, 2000))]).then(() => {
    console.log(done.sort().join(" "));
    process.exit();
  });`;

async function serve(inside: Namespace): Promise<ChildProcess> {
  const server = spawn("ip", ["netns", "exec", inside.name, process.execPath, "-e", echo], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(server.stdout, "data");
  return server;
}

/** Sends packets from both ends; returns what came back of what was sent from outside. */
async function traffic({ outside, inside }: Place): Promise<string[]> {
  const within = (namespace: Namespace, ...command: string[]) =>
    spawn("ip", ["netns", "exec", namespace.name, ...command], { stdio: ["ignore", "pipe", "inherit"] });
  const asking = within(outside, process.execPath, "-e", ask(addresses.inside));
  // From inside as well: an ingress side that drops everything leaves the egress side nothing to answer.
  const back = within(inside, "ping", "-c", "1", "-W", "1", addresses.outside[0]);
  back.stdout.resume();
  let came = "";
  asking.stdout.on("data", (data) => {
    came += data;
  });
  await Promise.all([once(asking, "close"), once(back, "close")]);
  return came.trim().split(" ").filter(Boolean);
}

/** The program directory of one trial: theirs and two counts. */
function fill(world: Scratch, object: string, manifest: string): string {
  const directory = join(world.dir, "programs");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { mode: 0o755 });
  const put = (from: string, name: string) => {
    copyFileSync(from, join(directory, name));
    chmodSync(join(directory, name), 0o644);
  };
  put(object, `theirs${suffix}`);
  if (manifest !== "") writeFileSync(join(directory, "theirs.yaml"), manifest, { mode: 0o644 });
  for (const name of ["before", "after"]) {
    put(join(root, `dist/programs/count${suffix}`), `${name}${suffix}`);
    writeFileSync(join(directory, `${name}.yaml`), "entry: {ingress: count, egress: count}\n", { mode: 0o644 });
  }
  return directory;
}

/** One trial: attaches the chain, sends packets, compares the counters, detaches. */
async function attempt(place: Place, object: string, manifest: string): Promise<Omit<Trial, "functions" | "sections">> {
  const { world, inside } = place;
  const bpffs = ["--bpffs", join(world.bpffs(), "remora")];
  const where = ["--netns", inside.path, "--ifname", "eth0"];
  const directory = fill(world, object, manifest);
  const failed = (said: string) => ({ manifest, runs: false, said, through: [] });
  const attached = remora("attach", ...where, "--programs", "before, theirs, after", "--dir", directory, ...bpffs);
  if (attached.status !== 0) return failed(firstLine(attached.stderr).replaceAll(`${directory}/`, ""));
  try {
    const through = await traffic(place);
    await sleep(100); // the last answers' acknowledgements
    const status = remora("status", "--json", ...bpffs);
    if (status.status !== 0) return failed(firstLine(status.stderr));
    const [attachment] = JSON.parse(status.stdout).attachments as AttachmentStatus[];
    if (!attachment) return failed("status shows no attachment");
    const { wrong, did } = judge(attachment);
    return { manifest, runs: wrong === "", said: wrong || did, through };
  } finally {
    remora("detach", ...where, ...bpffs);
    for (const namespace of [place.outside, inside]) namespace.exec("ip", "neigh", "flush", "all");
  }
}

function judge(attachment: AttachmentStatus): { wrong: string; did: string } {
  const wrong: string[] = [];
  const did: string[] = [];
  for (const direction of directions) {
    const [before, theirs, after] = ["before", "theirs", "after"].map((name) =>
      attachment[direction].find(({ program }) => program === name),
    );
    if (!theirs) continue;
    if (!before || !after) return { wrong: `a count is missing in the ${direction} chain`, did: "" };
    if (theirs.packets === 0) wrong.push(`${direction}: it met no packet`);
    if (theirs.packets !== before.proceeded)
      wrong.push(`${direction}: ${before.proceeded} came, ${theirs.packets} met it`);
    if (after.packets !== theirs.proceeded)
      wrong.push(`${direction}: ${theirs.proceeded} went on, ${after.packets} came`);
    if (theirs.ended.broken || before.ended.broken) wrong.push(`${direction}: the chain broke`);
    const ended = Object.entries(theirs.ended).flatMap(([verdict, packets]) =>
      packets > 0 ? [`${packets} ${verdict}`] : [],
    );
    did.push(`${direction} ${theirs.packets} packets${ended.length > 0 ? ` (${ended.join(", ")})` : ""}`);
  }
  return { wrong: wrong.join("; "), did: did.join(", ") };
}

/** The ways to run an object: as it is, and each TC function that this leaves out by a manifest that names it. */
function trialsOf(view: ObjectView, own: string): Pick<Trial, "functions" | "sections" | "manifest">[] {
  const sectionOf = (name: string) => view.programs.find((program) => program.function === name)?.section ?? "";
  const trial = (functions: Trial["functions"], manifest: string) => ({
    functions,
    manifest,
    sections: [...new Set(Object.values(functions).map(sectionOf))],
  });
  const asItIs = Object.fromEntries(view.entries.map((entry) => [entry.direction, entry.function]));
  const trials = view.chain.able ? [trial(asItIs, own)] : [];
  for (const { function: name, section, type, inner } of view.programs) {
    if (type !== "sched_cls" || inner || Object.values(asItIs).includes(name)) continue;
    const said = directions.filter((direction) => `${section} ${name}`.toLowerCase().includes(direction));
    const functions = Object.fromEntries((said.length === 1 ? said : directions).map((direction) => [direction, name]));
    const fields = Object.entries(functions).map(([direction, value]) => `${direction}: ${value}`);
    trials.push(trial(functions, `entry: {${fields.join(", ")}}\n`));
  }
  return trials;
}

async function examine(place: Place, path: string): Promise<Row> {
  const row: Row = { object: basename(path, suffix), maps: [], trials: [], refused: "" };
  const inspected = remora("inspect", "--json", path);
  if (inspected.status !== 0) return { ...row, refused: firstLine(inspected.stderr).replace(`${path}: `, "") };
  const view = JSON.parse(inspected.stdout) as ObjectView;
  row.maps = [...new Set(view.maps.filter(({ internal }) => !internal).map(({ type }) => type))].sort();
  const beside = view.manifest === null ? "" : readFileSync(view.manifest, "utf8");
  for (const trial of trialsOf(view, beside))
    row.trials.push({ ...trial, ...(await attempt(place, path, trial.manifest)) });
  if (row.trials.length === 0) row.refused = (view.chain.reason ?? "no TC function").replace(path, row.object);
  return row;
}

const runs = (row: Row): boolean => row.trials.some((trial) => trial.runs);
const cell = (text: string): string => text.replaceAll("|", "\\|").replace(/\s+/g, " ").trim();

function table(rows: Row[]): string {
  const lines = rows.flatMap((row): string[][] =>
    row.trials.length === 0
      ? [[row.object, "", "", "no", "", row.refused]]
      : row.trials.map((trial) => [
          row.object,
          Object.entries(trial.functions)
            .map(([direction, name]) => `${direction}: ${name}`)
            .join(", "),
          trial.manifest,
          trial.runs ? "yes" : "no",
          trial.through.length === 6 ? "all" : trial.through.join(" "),
          trial.said,
        ]),
  );
  return [
    ["object", "functions", "manifest", "runs", "passes", "what it did, or why not"],
    Array(6).fill("---"),
    ...lines,
  ]
    .map((line) => `| ${line.map(cell).join(" | ")} |`)
    .join("\n");
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "boolean", default: false }, only: { type: "string", default: "" } },
});
const [folder] = positionals;
if (folder === undefined || positionals.length > 1) {
  console.error(`usage: node scripts/compatibility.ts FOLDER [--json] [--only TEXT]; FOLDER holds NAME${suffix} files`);
  process.exit(2);
}
if (!existsSync(executable)) {
  console.error(`${executable} is not there: npm run build makes it`);
  process.exit(2);
}
const objects = readdirSync(folder)
  .filter((name) => name.endsWith(suffix) && name.includes(values.only))
  .sort();
if (objects.length === 0) {
  console.error(`${folder} holds no NAME${suffix} file${values.only === "" ? "" : ` with ${values.only} in its name`}`);
  process.exit(2);
}

using world = scratch();
const place: Place = { world, outside: world.namespace(), inside: world.namespace() };
const end = (name: "outside" | "inside", ifname: string) => ({
  namespace: place[name],
  ifname,
  addresses: [`${addresses[name][0]}/24`, `${addresses[name][1]}/64`],
});
world.veth(end("outside", "peer"), end("inside", "eth0"));
const server = await serve(place.inside);
try {
  const rows: Row[] = [];
  for (const [index, name] of objects.entries()) {
    console.error(`${index + 1} of ${objects.length}  ${name}`);
    rows.push(await examine(place, join(folder, name)));
  }
  if (values.json) console.log(JSON.stringify(rows, null, 2));
  else console.log(`${table(rows)}\n\n${rows.filter(runs).length} of ${rows.length} objects run`);
  process.exitCode = rows.every(runs) ? 0 : 1;
} finally {
  server.kill();
}
