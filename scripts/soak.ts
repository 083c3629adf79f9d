// SPDX-License-Identifier: Apache-2.0
/**
 * `npm run soak`: 2,000 changes of one pod's chain under traffic. `npm run soak -- CHANGES PACKETS_PER_SECOND` for others;
 * the pod is one of containerd's; with `--namespace` it is a bare network namespace.
 */
import { faults, report, soak } from "../e2e/change/soak.ts";

const words = process.argv.slice(2);
const pod = !words.includes("--namespace");
const [changes = 2000, rate = 100_000] = words.filter((word) => word !== "--namespace").map(Number);
if (!Number.isInteger(changes) || changes < 1 || changes > 100_000 || !(rate >= 100 && rate <= 10_000_000)) {
  console.error("usage: npm run soak -- [--namespace] [CHANGES, 1 to 100000] [PACKETS_PER_SECOND, 100 to 10000000]");
  process.exit(2);
}
const figures = await soak({ changes, rate, pod, progress: (done) => console.log(`${done} changes`) });
const wrong = faults(figures);
console.log(report(figures));
for (const line of wrong) console.log(`WRONG  ${line}`);
if (wrong.length === 0) console.log("nothing was lost, duplicated, mixed or let through");
process.exitCode = wrong.length === 0 ? 0 : 1;
