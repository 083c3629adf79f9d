// SPDX-License-Identifier: Apache-2.0
/**
 * The main script of the executable. It starts the bundle with a code cache of our own making: Node's covers what a
 * start compiles, ours what an ADD does (see rehearsal.ts), and spares it 20 ms. A runtime that was built on a machine of another
 * architecture has neither.
 */
const { getAssetKeys, getRawAsset } = require("node:sea");
const { Script } = require("node:vm");

const source = Buffer.from(getRawAsset("main.js")).latin1Slice();
const cachedData = getAssetKeys().includes("main.cache") ? Buffer.from(getRawAsset("main.cache")) : undefined;
new Script(source, { filename: "remora.js", cachedData }).runInThisContext()(require);
