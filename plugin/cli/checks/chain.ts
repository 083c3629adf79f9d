// SPDX-License-Identifier: Apache-2.0
/** Whether the node's own chain can be selected and planned, as the ADD of every pod does it first. */

import { openCatalog } from "../../catalog/catalog.ts";
import { planAnywhere } from "../../chain/anywhere.ts";
import { RemoraError } from "../../errors.ts";
import type { KernelPort } from "../../kernel/port.ts";
import type { NodeConfig } from "../../model.ts";
import { select } from "../../select/select.ts";
import type { Check } from "./check.ts";

/** Nothing where the configuration has no chain. */
export async function checkChain(config: NodeConfig, kernel: KernelPort): Promise<Check[]> {
  const check = "node's chain";
  if (config.chain.length === 0) return [];
  try {
    const catalog = await openCatalog(config.programDirs, kernel);
    const asked = select({ config, annotations: undefined, pod: null, catalog });
    const { selected, missing } = planAnywhere(kernel, config, asked);
    const names = selected.map(({ program }) => program.name).join(", ") || "no program";
    return [
      { check, state: "ok", found: `${names}, on every pod` },
      ...missing.map(({ reason }): Check => ({ check, state: "note", found: `pods start without it: ${reason}` })),
    ];
  } catch (error) {
    if (!(error instanceof RemoraError)) throw error;
    const remedy = "mend the chain in the configuration, or what it names; until then the ADD of every pod fails";
    return [{ check, state: "missing", found: error.message, remedy }];
  }
}
