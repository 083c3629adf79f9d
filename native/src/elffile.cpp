// SPDX-License-Identifier: Apache-2.0
#include "elffile.h"

#include <elf.h>

#include <bit>
#include <cstring>
#include <optional>

namespace remora {
namespace {

#ifndef EM_BPF
constexpr int EM_BPF = 247;
#endif

// A copy of the record at `offset`, wherever it is aligned; false where it is not all inside.
template <typename T>
bool readAt(Bytes bytes, uint64_t offset, T &out) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return false;
  std::memcpy(&out, bytes.data() + offset, sizeof(T));
  return true;
}

bool stringAt(Bytes table, uint64_t offset, std::string_view &out) {
  if (offset >= table.size()) return false;
  auto start = reinterpret_cast<const char *>(table.data()) + offset;
  size_t room = table.size() - offset;
  size_t length = strnlen(start, room);
  if (length == room) return false;
  out = {start, length};
  return true;
}

Failure damaged(const std::string &what) { return refused("the object file is truncated or damaged: " + what); }

// Why the file is no relocatable BPF object of this machine's byte order, if it is none.
std::optional<Failure> checkHeader(Bytes file, Elf64_Ehdr &header) {
  if (file.size() < SELFMAG || std::memcmp(file.data(), ELFMAG, SELFMAG) != 0)
    return refused("not an ELF file: a program is what `clang -target bpf -c` writes");
  if (!readAt(file, 0, header)) return damaged("it ends inside the ELF header");
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return refused("a 32-bit ELF file, not a BPF object");
  constexpr unsigned char native = std::endian::native == std::endian::little ? ELFDATA2LSB : ELFDATA2MSB;
  if (header.e_ident[EI_DATA] != native)
    return refused(std::string("the object has the other byte order than this machine: compile it with -target ") +
                   (native == ELFDATA2LSB ? "bpfel" : "bpfeb"));
  if (header.e_machine != EM_BPF)
    return refused("an ELF file for another machine (e_machine " + std::to_string(header.e_machine) +
                   "), not a BPF object");
  if (header.e_type != ET_REL) return refused("an ELF file, but no relocatable object (e_type is not ET_REL)");
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum == 0 || header.e_shstrndx >= header.e_shnum)
    return damaged("it has no usable section table");
  return std::nullopt;
}

// `raw`: the headers, as they stand in the file.
std::optional<Failure> readSections(Bytes file, const Elf64_Ehdr &header, std::vector<Elf64_Shdr> &raw, Elf &elf) {
  raw.resize(header.e_shnum);
  for (size_t i = 0; i < raw.size(); i++)
    if (header.e_shoff > file.size() || !readAt(file, header.e_shoff + i * sizeof(Elf64_Shdr), raw[i]))
      return damaged("the section table lies beyond the end of the file");
  for (auto &shdr : raw) {
    Bytes data;
    if (shdr.sh_type != SHT_NOBITS && shdr.sh_type != SHT_NULL) {
      if (shdr.sh_offset > file.size() || file.size() - shdr.sh_offset < shdr.sh_size)
        return damaged("a section lies beyond the end of the file");
      data = file.subspan(shdr.sh_offset, shdr.sh_size);
    }
    elf.sections.push_back({"", shdr.sh_type, shdr.sh_flags, shdr.sh_link, shdr.sh_info, data});
  }
  for (size_t i = 0; i < raw.size(); i++)
    if (!stringAt(elf.sections[header.e_shstrndx].data, raw[i].sh_name, elf.sections[i].name))
      return damaged("a section has no name");
  return std::nullopt;
}

std::optional<Failure> readSymbols(const std::vector<Elf64_Shdr> &raw, Elf &elf) {
  int tables = 0;
  for (size_t i = 0; i < raw.size(); i++) {
    auto &section = elf.sections[i];
    if (section.type != SHT_SYMTAB) continue;
    if (++tables > 1) return damaged("more than one symbol table");
    if (raw[i].sh_entsize != sizeof(Elf64_Sym) || section.link >= elf.sections.size())
      return damaged("the symbol table");
    for (uint64_t offset = 0; offset + sizeof(Elf64_Sym) <= section.data.size(); offset += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      std::string_view name;
      if (!readAt(section.data, offset, symbol) ||
          !stringAt(elf.sections[section.link].data, symbol.st_name, name))
        return damaged("a symbol's name");
      elf.symbols.push_back({name, static_cast<uint8_t>(ELF64_ST_TYPE(symbol.st_info)), symbol.st_shndx,
                             symbol.st_value, symbol.st_size});
    }
  }
  if (tables == 0) return damaged("no symbol table");
  return std::nullopt;
}

std::optional<Failure> readRelocations(const std::vector<Elf64_Shdr> &raw, Elf &elf) {
  for (size_t i = 0; i < raw.size(); i++) {
    auto &section = elf.sections[i];
    if (section.type != SHT_REL) continue;
    if (raw[i].sh_entsize != sizeof(Elf64_Rel) || section.info >= elf.sections.size())
      return damaged("relocations of " + std::string(section.name));
    for (uint64_t offset = 0; offset + sizeof(Elf64_Rel) <= section.data.size(); offset += sizeof(Elf64_Rel)) {
      Elf64_Rel relocation;
      if (!readAt(section.data, offset, relocation) || ELF64_R_SYM(relocation.r_info) >= elf.symbols.size())
        return damaged("a relocation of " + std::string(section.name));
      elf.relocations[section.info][relocation.r_offset] = ELF64_R_SYM(relocation.r_info);
    }
  }
  return std::nullopt;
}

}  // namespace

const ElfSection *Elf::section(std::string_view name) const {
  for (auto &section : sections)
    if (section.name == name) return &section;
  return nullptr;
}

Result<Elf> parseElf(Bytes file) {
  Elf64_Ehdr header;
  std::vector<Elf64_Shdr> raw;
  Elf elf;
  if (auto failure = checkHeader(file, header)) return *failure;
  if (auto failure = readSections(file, header, raw, elf)) return *failure;
  if (auto failure = readSymbols(raw, elf)) return *failure;
  if (auto failure = readRelocations(raw, elf)) return *failure;
  return elf;
}

}  // namespace remora
