// SPDX-License-Identifier: Apache-2.0
/**
 * A process that runs one verb and is killed in the place of its nth kernel operation, by itself, so that not one
 * instruction more is run. Usage: doomed.ts VERB N JOURNAL SCENE; the journal gets a line for each BPF object it made.
 */
import { appendFileSync } from "node:fs";
import { createNativeKernel } from "../../plugin/kernel/native.ts";
import { faulty, killed } from "./faults.ts";
import { type VerbName, verbs } from "./scene.ts";

const [verb, at, journal = "", scene = ""] = process.argv.slice(2);
const { kernel } = faulty(createNativeKernel(), Number(at), killed, (object) => appendFileSync(journal, `${object}\n`));
await verbs[verb as VerbName].run(kernel, JSON.parse(scene));
