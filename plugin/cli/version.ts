// SPDX-License-Identifier: Apache-2.0
/** `remora version`. */

import manifest from "../../package.json" with { type: "json" };
import type { Command } from "./command.ts";

export const command: Command = {
  operands: "",
  maxOperands: 0,
  options: {},
  help: `Prints the version of Remora. With --json: {"version"}.`,
  async run({ io, json }) {
    io.stdout(json ? `${JSON.stringify({ version: manifest.version })}\n` : `remora ${manifest.version}\n`);
    return 0;
  },
};
