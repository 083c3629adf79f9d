// SPDX-License-Identifier: Apache-2.0
/** Lists of prefixes that pods share: one that pods ask and that nobody has filled, as after a reboot, denies nothing. */

import { isPrefixKey } from "../../catalog/address.ts";
import { listNodeMaps } from "../../chain/node-maps.ts";
import { Handles } from "../../chain/undo.ts";
import { RemoraError } from "../../errors.ts";
import { KernelError, type KernelPort } from "../../kernel/port.ts";
import { type Check, reasonOf } from "./check.ts";

export function checkLists(kernel: KernelPort, bpffs: string): Check[] {
  const check = "shared list";
  try {
    return listNodeMaps(kernel, bpffs).flatMap(({ program, map, path, attachments }): Check[] => {
      using handles = new Handles(kernel);
      const fd = handles.openPin(path)?.fd;
      const types = fd === undefined ? undefined : kernel.mapTypes(fd);
      if (fd === undefined || !types || !isPrefixKey(types.key)) return [];
      const name = `${program} ${map}`;
      if (kernel.mapEntries(fd, 1).entries.length > 0) return [{ check, state: "ok", found: `${name} is filled` }];
      const users = attachments === 0 ? "no pod asks it" : "pods ask it";
      return [
        {
          check,
          state: "note",
          found: `${name} is empty, ${users}: it matches nothing`,
          remedy: `remora maps --node ${name} --load FILE`,
        },
      ];
    });
  } catch (error) {
    // A path that cannot be, or may not be read: other checks say what is wrong with it.
    if (!(error instanceof KernelError || error instanceof RemoraError)) throw error;
    return [{ check, state: "note", found: reasonOf(error) }];
  }
}
