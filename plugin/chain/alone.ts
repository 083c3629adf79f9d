// SPDX-License-Identifier: Apache-2.0
/** One program by itself, loaded as on a pod, with nothing attached: what the verifier says of it, and the maps it brings. */

import { counterLayout, type KernelPort, type Stage, type StageRequest } from "../kernel/port.ts";
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
  const chain = handles.own(
    kernel.createMap({ type: "prog_array", name: "remora_scratch", keySize: 4, valueSize: 4, maxEntries: 1 }),
  );
  const counters = handles.own(
    kernel.createMap({
      type: "percpu_array",
      name: "remora_counters",
      keySize: 4,
      valueSize: counterLayout.words * 8,
      maxEntries: 1,
    }),
  );
  const place = { position: 0, length: 1, failurePolicy: "closed", countHead: true } as const;
  const stage = kernel.loadStage({ ...request, ...place, reuse: [], chain, counters });
  handles.own(stage.program);
  for (const { fd } of stage.maps) handles.own(fd);
  return stage;
}
