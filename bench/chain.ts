// SPDX-License-Identifier: Apache-2.0
/** Chains for measurements, as ADD builds them, and their test runs. */
import { counterLayout, type Fd, KernelError, type KernelPort } from "../plugin/kernel/port.ts";

export const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

/** Average nanoseconds of a run. A signal that arrives meanwhile ends a test run early, with EINTR: it is begun again. */
export function testRun(kernel: KernelPort, program: Fd, packet: Buffer, repeat: number): number {
  for (let attempt = 1; ; attempt++)
    try {
      return kernel.testRun({ program, packet, repeat }).duration;
    } catch (error) {
      if (attempt === 10 || !(error instanceof KernelError && error.code === "EINTR")) throw error;
    }
}

/** The same program in every position of one chain, as ADD builds it. */
export function loadChain(
  kernel: KernelPort,
  object: Buffer,
  name: string,
  length: number,
  parameters: { name: string; bytes: Buffer }[] = [],
): { head: Fd; fds: Fd[] } {
  const chain = kernel.createMap({ type: "prog_array", name: "chain", keySize: 4, valueSize: 4, maxEntries: length });
  const counters = kernel.createMap({
    type: "percpu_array",
    name: "counters",
    keySize: 4,
    valueSize: counterLayout.words * 8,
    maxEntries: length,
  });
  const fds = [chain, counters];
  let head: Fd = -1;
  for (let position = 0; position < length; position++) {
    const stage = kernel.loadStage({
      object,
      name,
      entries: [{ function: name, parameters }],
      position,
      length,
      proceedOn: [-1, 0, 3],
      failurePolicy: "closed",
      chain,
      counters,
      countHead: position === 0,
      reuse: [],
    });
    kernel.updateMap(chain, u32(position), u32(stage.program));
    fds.push(stage.program, ...stage.maps.map(({ fd }) => fd));
    if (position === 0) head = stage.program;
  }
  return { head, fds };
}
