// SPDX-License-Identifier: Apache-2.0
// Most random changes of an ELF file are refused by its first checks. So this one changes, most of the time, the content of
// one section (instructions, BTF, relocations, symbols, maps) or one section header in place, and leaves the rest whole.
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);

namespace {

struct Range {
  uint64_t offset, size;
};

bool inside(const Range &range, size_t size) {
  return range.size > 0 && range.offset < size && range.size <= size - range.offset;
}

// One section's bytes or its header; nothing where there is none.
Range choose(const uint8_t *data, size_t size, std::minstd_rand &random) {
  Elf64_Ehdr header;
  if (size < sizeof(header)) return {0, 0};
  std::memcpy(&header, data, sizeof(header));
  if (header.e_shnum == 0) return {0, 0};
  uint64_t index = random() % header.e_shnum;
  if (header.e_shoff > size) return {0, 0};
  Range shdr{header.e_shoff + index * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr)};
  if (!inside(shdr, size)) return {0, 0};
  if (random() % 8 == 0) return shdr;
  Elf64_Shdr section;
  std::memcpy(&section, data + shdr.offset, sizeof(section));
  return section.sh_type == SHT_NOBITS ? Range{0, 0} : Range{section.sh_offset, section.sh_size};
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned int seed) {
  std::minstd_rand random(seed);
  if (random() % 8 == 0) return LLVMFuzzerMutate(data, size, capacity);
  Range range = choose(data, size, random);
  if (!inside(range, size)) return LLVMFuzzerMutate(data, size, capacity);
  // A piece of it, mostly: records are small.
  constexpr uint64_t kPiece = 64;
  if (range.size > kPiece && random() % 4 != 0) {
    range.offset += random() % (range.size - kPiece + 1);
    range.size = kPiece;
  }
  // libFuzzer may shorten it; the bytes behind stay where they are.
  LLVMFuzzerMutate(data + range.offset, range.size, range.size);
  return size;
}
