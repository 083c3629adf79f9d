// SPDX-License-Identifier: Apache-2.0
/**
 * Runs the bundle once and writes the code cache when it ends, with all that was compiled meanwhile and all that the
 * cache held before.
 *
 *   node rehearse.cjs main.js main.cache
 */
const { existsSync, readFileSync, writeFileSync } = require("node:fs");
const { Script } = require("node:vm");

const [bundle, cache] = process.argv.splice(2, 2);
const source = readFileSync(bundle, "latin1");
const cachedData = existsSync(cache) ? readFileSync(cache) : undefined;
const script = new Script(source, { filename: "remora.js", ...(cachedData && { cachedData }) });
if (script.cachedDataRejected) throw new Error("V8 refuses its own code cache");
process.on("exit", () => writeFileSync(cache, script.createCachedData()));
script.runInThisContext()(require);
