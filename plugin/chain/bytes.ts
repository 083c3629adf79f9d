// SPDX-License-Identifier: Apache-2.0
/** Numbers as maps hold them. */

/** A u32 key or value; both machines that Remora runs on are little-endian. */
export function u32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(number);
  return bytes;
}
