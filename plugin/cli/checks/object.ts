// SPDX-License-Identifier: Apache-2.0
/** The smallest object that can stand in a chain, made here so that `doctor` needs no file to try the kernel with. */

/** The function of `probeObject`. */
export const probeFunction = "probe";

const headerSize = 64;
const sectionHeaderSize = 64;
const symbolSize = 24;
const shtProgbits = 1;
const shtSymtab = 2;
const shtStrtab = 3;
const shfAlloc = 2;
const shfExecinstr = 4;
const stInfoGlobalFunction = (1 << 4) | 2;

interface Section {
  name: string;
  type: number;
  data: Buffer;
  flags?: number;
  link?: number;
  info?: number;
  entrySize?: number;
}

/** A relocatable ELF file for BPF: `SEC("tc") int probe(ctx) { return TC_ACT_UNSPEC; }`, little endian. */
export function probeObject(): Buffer {
  const instructions = Buffer.from("b7000000ffffffff" + "9500000000000000", "hex"); // r0 = -1; exit
  const strings = Buffer.from(`\0${probeFunction}\0`);
  const symbols = Buffer.alloc(2 * symbolSize);
  symbols.writeUInt32LE(1, symbolSize); // its name in `strings`
  symbols.writeUInt8(stInfoGlobalFunction, symbolSize + 4);
  symbols.writeUInt16LE(1, symbolSize + 6); // in section 1
  symbols.writeBigUInt64LE(BigInt(instructions.length), symbolSize + 16);
  return elf([
    { name: "", type: 0, data: Buffer.alloc(0) },
    { name: "tc", type: shtProgbits, data: instructions, flags: shfAlloc | shfExecinstr },
    { name: "license", type: shtProgbits, data: Buffer.from("Dual BSD/GPL\0"), flags: shfAlloc },
    { name: ".symtab", type: shtSymtab, data: symbols, link: 4, info: 1, entrySize: symbolSize },
    { name: ".strtab", type: shtStrtab, data: strings },
  ]);
}

/** Lays sections out one after the other, each on 8 bytes, the names and the section headers last. */
function elf(sections: Section[]): Buffer {
  const names = [...sections.map(({ name }) => name), ".shstrtab"];
  const nameTable = Buffer.from(`${names.join("\0")}\0`);
  const all: Section[] = [...sections, { name: ".shstrtab", type: shtStrtab, data: nameTable }];
  const bodies: Buffer[] = [];
  let offset = headerSize;
  let nameOffset = 0;
  const headers = all.map(({ name, type, data, flags = 0, link = 0, info = 0, entrySize = 0 }) => {
    const header = Buffer.alloc(sectionHeaderSize);
    header.writeUInt32LE(nameOffset, 0);
    header.writeUInt32LE(type, 4);
    header.writeBigUInt64LE(BigInt(flags), 8);
    header.writeBigUInt64LE(BigInt(type === 0 ? 0 : offset), 24);
    header.writeBigUInt64LE(BigInt(data.length), 32);
    header.writeUInt32LE(link, 40);
    header.writeUInt32LE(info, 44);
    header.writeBigUInt64LE(type === 0 ? 0n : 8n, 48);
    header.writeBigUInt64LE(BigInt(entrySize), 56);
    nameOffset += name.length + 1;
    const padded = Buffer.alloc(Math.ceil(data.length / 8) * 8);
    data.copy(padded);
    bodies.push(padded);
    offset += padded.length;
    return header;
  });

  const file = Buffer.alloc(headerSize);
  Buffer.from("7f454c46020101", "hex").copy(file); // 64 bits, little endian, version 1
  file.writeUInt16LE(1, 16); // ET_REL
  file.writeUInt16LE(247, 18); // EM_BPF
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(offset), 40);
  file.writeUInt16LE(headerSize, 52);
  file.writeUInt16LE(sectionHeaderSize, 58);
  file.writeUInt16LE(all.length, 60);
  file.writeUInt16LE(all.length - 1, 62);
  return Buffer.concat([file, ...bodies, ...headers]);
}
