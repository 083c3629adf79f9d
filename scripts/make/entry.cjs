// SPDX-License-Identifier: Apache-2.0
/**
 * The main script of the executable. It starts the bundle with a code cache of our own making: Node's covers what a
 * start compiles, ours what an ADD does (see rehearsal.ts), and spares it 20 ms.
 */
const { getRawAsset } = require("node:sea");
const { Script } = require("node:vm");

const source = Buffer.from(getRawAsset("main.js")).latin1Slice();
const cachedData = Buffer.from(getRawAsset("main.cache"));
new Script(source, { filename: "remora.js", cachedData }).runInThisContext()(require);
