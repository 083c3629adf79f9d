// SPDX-License-Identifier: Apache-2.0
/**
 * Where the members of flow-log's and dns-log's records lie, by the BTF of the pod's own map: found once, then read by
 * offset. Decoding each record as a tree would take several times as long.
 */

import { code, RemoraError } from "../errors.ts";
import type { BtfType, KernelPort, MapTypes } from "../kernel/port.ts";

/** Numbers of one record, `at` being where the record begins. Exact below 2^53. */
export type Numbers<Name extends string> = (bytes: Buffer, at: number) => Record<Name, number>;

/** One end of a flow. */
export interface Endpoint {
  /** 4 bytes, or 16. */
  address: Buffer;
  port: number;
}

/** A record's members. Their makers throw RemoraError unsupported where the record has no such member, or another kind of. */
export class Layout {
  readonly #type: BtfType;
  readonly #program: string;

  /** @param program whose records they are, for errors. */
  constructor(type: BtfType, program: string) {
    this.#type = type;
    this.#program = program;
  }

  /** Integers, enums and bools; all are members of `within`, which is empty or ends with a dot. */
  numbers<Name extends string>(names: readonly Name[], within = ""): Numbers<Name> {
    const readers = names.map((name) => [name, this.#number(within + name)] as const);
    return (bytes, at) => {
      const read = {} as Record<Name, number>;
      for (const [name, number] of readers) read[name] = number(bytes, at);
      return read;
    };
  }

  /** A `struct remora_flow`: a packet's ends, and the number of its protocol. */
  flow(within = ""): (bytes: Buffer, at: number) => { source: Endpoint; destination: Endpoint; protocol: number } {
    const numbers = this.numbers(["family", "protocol"], within);
    const source = this.place(`${within}source`, 16);
    const destination = this.place(`${within}destination`, 16);
    const sourcePort = this.place(`${within}source_port`, 2);
    const destinationPort = this.place(`${within}destination_port`, 2);
    return (bytes, at) => {
      const { family, protocol } = numbers(bytes, at);
      // IPv4 stands in the last four of the sixteen bytes.
      const from = family === 4 ? 12 : 0;
      const end = (address: number, port: number): Endpoint => ({
        address: bytes.subarray(at + address + from, at + address + 16),
        port: bytes.readUInt16BE(at + port),
      });
      return { source: end(source, sourcePort), destination: end(destination, destinationPort), protocol };
    };
  }

  /** An array of characters, up to its first NUL. */
  text(path: string): (bytes: Buffer, at: number) => string {
    const { offset, type } = this.#find(path);
    if (type.kind !== "array" || type.element.size !== 1) throw foreign(this.#program, path);
    return (bytes, at) => {
      const whole = bytes.subarray(at + offset, at + offset + type.size);
      const end = whole.indexOf(0);
      return whole.toString("latin1", 0, end < 0 ? whole.length : end);
    };
  }

  /** Where a member of that size begins. */
  place(path: string, size: number): number {
    const { offset, type } = this.#find(path);
    if (type.size !== size) throw foreign(this.#program, path);
    return offset;
  }

  #number(path: string): (bytes: Buffer, at: number) => number {
    const { offset, type } = this.#find(path);
    if (type.kind !== "int" && type.kind !== "enum") throw foreign(this.#program, path);
    switch (type.size) {
      case 1:
        return (bytes, at) => bytes.readUInt8(at + offset);
      case 2:
        return (bytes, at) => bytes.readUInt16LE(at + offset);
      case 4:
        return (bytes, at) => bytes.readUInt32LE(at + offset);
      case 8:
        return (bytes, at) => bytes.readUInt32LE(at + offset) + bytes.readUInt32LE(at + offset + 4) * 2 ** 32;
      default:
        throw foreign(this.#program, path);
    }
  }

  #find(path: string): { offset: number; type: BtfType } {
    let found = { offset: 0, type: this.#type };
    for (const name of path.split(".")) {
      const members = found.type.kind === "struct" || found.type.kind === "union" ? found.type.members : [];
      const member = members.find((each) => each.name === name);
      if (member === undefined || member.bitOffset % 8 !== 0) throw foreign(this.#program, path);
      found = { offset: found.offset + member.bitOffset / 8, type: member.type };
    }
    return found;
  }
}

/** @throws RemoraError unsupported where the map has no BTF. */
export function typesOf(kernel: KernelPort, map: number, program: string): MapTypes {
  const types = kernel.mapTypes(map);
  if (types === undefined) throw foreign(program, "BTF");
  return types;
}

function foreign(program: string, path: string): RemoraError {
  return new RemoraError(
    code.unsupported,
    `the records of this pod's ${program} cannot be read: they have no ${path} as this version of Remora knows it, so it is ` +
      "another program of that name, or another version; remora maps shows what it holds",
  );
}
