// SPDX-License-Identifier: Apache-2.0
/** `npm run bench [hops|verbs]`: prints the figures; `--quick` takes fewer rounds. */
import { hops } from "../bench/hops.ts";
import { verbs } from "../bench/verbs.ts";

const words = process.argv.slice(2);
const quick = words.includes("--quick");
const wanted = words.filter((word) => !word.startsWith("--"));
const parts: Record<string, () => string> = {
  hops: () => hops(quick ? { rounds: 3, packets: 100_000 } : { rounds: 11, packets: 400_000 }),
  verbs: () => verbs({ rounds: quick ? 5 : 31 }),
};
const unknown = wanted.filter((word) => !(word in parts));
if (unknown.length > 0) {
  console.error(`bench: no part named ${unknown.join(", ")}; there are ${Object.keys(parts).join(", ")}`);
  process.exit(2);
}
for (const [name, part] of Object.entries(parts))
  if (wanted.length === 0 || wanted.includes(name)) console.log(`${part()}\n`);
