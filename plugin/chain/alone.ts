// SPDX-License-Identifier: Apache-2.0
/** One program by itself, loaded as on a pod, with nothing attached: what the verifier says of it, and the maps it brings. */

import type { KernelPort, Stage, StageRequest } from "../kernel/port.ts";
import { createChainMap, createCounters } from "./maps.ts";
import type { Handles } from "./undo.ts";

/**
 * Loads a stage of a chain that has no other and that no packet runs through. All of it goes with the handles.
 *
 * @throws KernelError as `loadStage` does.
 */
export function loadAlone(
  kernel: KernelPort,
  request: Pick<StageRequest, "object" | "name" | "entries" | "proceedOn">,
  handles: Handles,
): Stage {
  const chain = createChainMap(kernel, "scratch", 1, handles);
  const counters = createCounters(kernel, 1, handles);
  const place = { position: 0, length: 1, failurePolicy: "closed", countHead: true } as const;
  const stage = kernel.loadStage({ ...request, ...place, reuse: [], chain, counters });
  handles.own(stage.program);
  for (const { fd } of stage.maps) handles.own(fd);
  return stage;
}
