// SPDX-License-Identifier: Apache-2.0
// A bounds-checked view of a BPF object file. Everything that is read from the file's bytes is checked here, once,
// so that neither the code scan nor libbpf meets a section that lies outside the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "result.h"

namespace remora {

using Bytes = std::span<const uint8_t>;

// Names lie in the file as the data do, and live as long: a damaged file may give one long name to each of many symbols.
struct ElfSection {
  std::string_view name;
  uint32_t type;
  uint64_t flags;
  uint32_t link;
  uint32_t info;
  Bytes data;  // empty for NOBITS
};

struct ElfSymbol {
  std::string_view name;
  uint8_t type;      // STT_*
  uint16_t section;  // index; SHN_UNDEF for externs
  uint64_t value;
  uint64_t size;
};

struct Elf {
  std::vector<ElfSection> sections;
  std::vector<ElfSymbol> symbols;
  // By the section that is relocated: offset in it -> index of the symbol.
  std::map<uint32_t, std::map<uint64_t, uint32_t>> relocations;

  const ElfSection *section(std::string_view name) const;
};

// Refuses what is no relocatable BPF object of this machine's byte order, with the reason.
Result<Elf> parseElf(Bytes file);

}  // namespace remora
