// SPDX-License-Identifier: Apache-2.0
/** The maps that each chain has for itself. */

import { counterLayout, type Fd, type KernelPort } from "../kernel/port.ts";
import type { Handles } from "./undo.ts";

/** A PROG_ARRAY with a slot for each position. */
export function createChainMap(kernel: KernelPort, name: string, length: number, handles: Handles): Fd {
  return handles.own(
    kernel.createMap({ type: "prog_array", name: `remora_${name}`, keySize: 4, valueSize: 4, maxEntries: length }),
  );
}

/** Counters with a row for each position. */
export function createCounters(kernel: KernelPort, length: number, handles: Handles): Fd {
  const valueSize = counterLayout.words * 8;
  return handles.own(
    kernel.createMap({ type: "percpu_array", name: "remora_counters", keySize: 4, valueSize, maxEntries: length }),
  );
}
