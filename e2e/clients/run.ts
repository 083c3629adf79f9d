// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run test:clients [CLIENT...]`: the tests of a pod's life under other container runtimes than the machine's own, and
 * under that one as well. Prints a table, client by check; `-` does not belong to that client. Any failure is the exit status.
 *
 * It is no part of `npm test`: it needs three suites of Debian's, two of them of tomorrow, and some 150 MB the first time.
 */
import { execFileSync } from "node:child_process";
import { resolve } from "node:path";
import { runProgram } from "../../scripts/testing/program.ts";
import { judge } from "../../scripts/testing/verdict.ts";
import { printColumns } from "../kernels/cells.ts";
import { type ClientName, clients, fetchClient } from "./clients.ts";

const root = resolve(import.meta.dirname, "../..");
/** Seconds that one check may take on a busy machine. */
const limit = 400;
const local = "containerd";
type Name = ClientName | typeof local;

const life = ["chain", "annotations", "life", "trace"].map((title) => ({
  title,
  file: `e2e/containerd/${title}.test.ts`,
  belongs: (name: Name) => name.startsWith("containerd"),
}));
const checks = [
  ...life,
  { title: "STATUS", file: "e2e/clients/status.ts", belongs: (name: Name) => name === "containerd-2" },
  { title: "podman", file: "e2e/clients/podman.test.ts", belongs: (name: Name) => name.startsWith("podman") },
];

const names: readonly Name[] = [local, ...(Object.keys(clients) as ClientName[])];
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !names.some((each) => each === name));
if (unknown.length > 0) {
  console.error(`no client ${unknown.join(", ")}; there are ${names.join(", ")}`);
  process.exit(2);
}

/** What is run: the runtime's version, and the newest of CNI that it is asked to speak. */
function describe(name: Name): [string, string] {
  if (name === local)
    return [execFileSync("containerd", ["--version"], { encoding: "utf8" }).split(" ")[2] ?? "", "1.0.0"];
  const { versions, cniVersion } = fetchClient(name);
  return [versions[name.split("-")[0] ?? ""] ?? "", cniVersion];
}

const table = [["client", "version", "CNI", ...checks.map(({ title }) => title), "seconds"]];
for (const name of names.filter((each) => wanted.length === 0 || wanted.includes(each))) {
  const line = [name, ...describe(name)];
  const started = performance.now();
  process.env.REMORA_TEST_CLIENT = name.startsWith("containerd-") ? name : "";
  for (const { title, file, belongs } of checks) {
    if (!belongs(name)) {
      line.push("-");
      continue;
    }
    const ending = await runProgram(process.execPath, [file], { cwd: root, limit });
    const { passed, problems } = judge(ending);
    line.push(problems.length === 0 ? `${passed}` : "FAILED");
    if (problems.length === 0) continue;
    process.exitCode = 1;
    console.log(`${name}: ${title}: ${problems.join("; ")}\n${ending.output.replace(/^/gm, "    ")}`);
  }
  line.push(((performance.now() - started) / 1000).toFixed(0));
  console.log(line.join("  "));
  table.push(line);
}
console.log();
printColumns(table);
