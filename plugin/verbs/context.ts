// SPDX-License-Identifier: Apache-2.0
/** What a verb is given besides its request. */

import type { KernelPort } from "../kernel/port.ts";
import type { Log } from "../log.ts";

export interface Context {
  kernel: KernelPort;
  log: Log;
}
