// SPDX-License-Identifier: Apache-2.0
#include "inplace.h"

#include <algorithm>
#include <cstdint>
#include <set>

#include "insn.h"

namespace remora {
namespace {

constexpr int kFirstKept = 6, kLastKept = 9, kFrame = 10;  // registers that calls keep; the frame pointer
constexpr int kStack = 512;
constexpr size_t kFar = 30000;  // a jump reaches 32767 instructions, and the prologue has some too

// Where the first function behind the entry starts.
size_t entryLength(const std::vector<bpf_insn> &insns) {
  auto starts = functionStarts(insns, 0);
  return starts.empty() ? insns.size() : *starts.begin();
}

int classOf(const bpf_insn &insn) { return BPF_CLASS(insn.code); }

// Bytes of stack at most, as far as constants tell: what is added to a pointer, and what is subtracted in an access.
int stackOf(const std::vector<bpf_insn> &insns, size_t length) {
  int direct = 0, moved = 0, beneath = 0;
  for (size_t i = 0; i < length; i++) {
    auto &insn = insns[i];
    int base = classOf(insn) == BPF_LDX ? insn.src_reg : insn.dst_reg;
    if (isWide(insn)) {
      i++;
    } else if (classOf(insn) == BPF_LDX || classOf(insn) == BPF_STX || classOf(insn) == BPF_ST) {
      auto &deepest = base == kFrame ? direct : beneath;
      deepest = std::max(deepest, -insn.off);
    } else if (insn.code == (BPF_ALU64 | BPF_ADD | BPF_K)) {
      if (insn.imm < 0 && insn.imm >= -kStack) moved = std::max(moved, -insn.imm);
    }
  }
  return std::max(direct, moved + beneath);
}

}  // namespace

std::optional<ContextHome> homeBeside(const std::vector<bpf_insn> &insns) {
  size_t length = entryLength(insns);
  if (length > kFar) return std::nullopt;
  std::set<int> used;
  for (size_t i = 0; i < length; i++) {
    used.insert(insns[i].dst_reg);
    used.insert(insns[i].src_reg);
    if (isWide(insns[i])) i++;
  }
  for (int reg = kFirstKept; reg <= kLastKept; reg++)
    if (!used.contains(reg)) return ContextHome{.reg = static_cast<uint8_t>(reg)};
  constexpr int kSlot = 8;
  int deepest = (stackOf(insns, length) + kSlot - 1) / kSlot * kSlot + kSlot;
  if (deepest > kStack) return std::nullopt;
  return ContextHome{.slot = static_cast<int16_t>(-deepest)};
}

void returnTo(std::vector<bpf_insn> &insns, ptrdiff_t target) {
  size_t length = entryLength(insns);
  for (size_t i = 0; i < length; i++) {
    auto &insn = insns[i];
    if (isWide(insn)) {
      i++;
    } else if (insn.code == (BPF_JMP | BPF_EXIT)) {
      insn = {};
      insn.code = BPF_JMP | BPF_JA;
      insn.off = static_cast<int16_t>(target - static_cast<ptrdiff_t>(i) - 1);
    }
  }
}

}  // namespace remora
