// SPDX-License-Identifier: Apache-2.0

/** Stands still for so long, the event loop included. Nothing else runs for it, not even a process that sleeps. */
export function pause(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
