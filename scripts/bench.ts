// SPDX-License-Identifier: Apache-2.0
/** `npm run bench [hops|verbs|programs|pods|rates]`: prints the figures; `--quick` takes fewer rounds. */
import { spawnSync } from "node:child_process";

const words = process.argv.slice(2);
const quick = words.includes("--quick");
const wanted = words.filter((word) => !word.startsWith("--"));
const parts: Record<string, () => Promise<string>> = {
  hops: async () =>
    (await import("../bench/hops.ts")).hops(quick ? { rounds: 3, bursts: 5_000 } : { rounds: 15, bursts: 20_000 }),
  verbs: async () => (await import("../bench/verbs.ts")).verbs({ rounds: quick ? 5 : 31 }),
  programs: async () =>
    (await import("../bench/programs.ts")).programs(
      quick ? { rounds: 3, repeat: 20_000, cold: 100 } : { rounds: 15, repeat: 200_000, cold: 500 },
    ),
  pods: async () =>
    (await import("../bench/pods.ts")).pods(
      quick
        ? { cycles: 1, cyclesOfFour: 1, turns: 6, latency: 1 }
        : { cycles: 1, cyclesOfFour: 4, turns: 20, latency: 1 },
    ),
  rates: async () => (await import("../bench/rates.ts")).rateAccuracy({ seconds: quick ? 3 : 10 }),
};
const unknown = wanted.filter((word) => !(word in parts));
if (unknown.length > 0) {
  console.error(`bench: no part named ${unknown.join(", ")}; there are ${Object.keys(parts).join(", ")}`);
  process.exit(2);
}
// Everything runs in a network namespace that goes with the process.
if (process.env.REMORA_BENCH_INSIDE === undefined) {
  const child = spawnSync("unshare", ["--net", process.execPath, ...process.argv.slice(1)], {
    stdio: "inherit",
    env: { ...process.env, REMORA_BENCH_INSIDE: "1" },
  });
  process.exit(child.status ?? 1);
}
for (const [name, part] of Object.entries(parts))
  if (wanted.length === 0 || wanted.includes(name)) console.log(`${await part()}\n`);
