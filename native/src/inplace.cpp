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

// Where the first function behind the entry starts. Calls of a damaged object may point anywhere.
size_t entryLength(const std::vector<bpf_insn> &insns) {
  auto starts = functionStarts(insns, 0);
  return starts.empty() ? insns.size() : std::min<size_t>(*starts.begin(), insns.size());
}

int classOf(const bpf_insn &insn) { return BPF_CLASS(insn.code); }

bool isJump(const bpf_insn &insn) { return classOf(insn) == BPF_JMP || classOf(insn) == BPF_JMP32; }
bool isCall(const bpf_insn &insn) { return insn.code == (BPF_JMP | BPF_CALL); }
bool isExit(const bpf_insn &insn) { return insn.code == (BPF_JMP | BPF_EXIT); }

// A load from the packet as cBPF had it: beyond the packet's end it ends the program, whose verdict is 0 then. In place
// that would be the stage, and no other program would run.
bool mayEnd(const bpf_insn &insn) {
  return classOf(insn) == BPF_LD && (BPF_MODE(insn.code) == BPF_ABS || BPF_MODE(insn.code) == BPF_IND);
}

// They return to whoever called the function that made them; in place nobody did, and the chain would be left.
bool makesTailCalls(const std::vector<bpf_insn> &insns) {
  for (size_t i = 0; i < insns.size(); i++) {
    if (isCall(insns[i]) && insns[i].src_reg == 0 && insns[i].imm == BPF_FUNC_tail_call) return true;
    if (isWide(insns[i])) i++;
  }
  return false;
}

bool setsVerdict(const bpf_insn &insn) {
  if (isCall(insn)) return true;
  if (insn.dst_reg != 0) return false;
  int kind = classOf(insn);
  return kind == BPF_ALU || kind == BPF_ALU64 || kind == BPF_LDX || kind == BPF_LD;
}

// Whether r0 is set on each way to an exit. The verifier refuses a program where it is not; in place it would take what the
// prologue left in r0 for the verdict.
bool alwaysSetsVerdict(const std::vector<bpf_insn> &insns, size_t length) {
  std::vector<bool> seen(length);  // with r0 not set
  std::vector<size_t> ways{0};
  while (!ways.empty()) {
    size_t i = ways.back();
    ways.pop_back();
    if (i >= length || seen[i]) continue;
    seen[i] = true;
    auto &insn = insns[i];
    if (isExit(insn)) return false;
    if (setsVerdict(insn)) continue;
    bool always = isJump(insn) && BPF_OP(insn.code) == BPF_JA;
    if (isJump(insn)) ways.push_back(i + 1 + (always && classOf(insn) == BPF_JMP32 ? insn.imm : insn.off));
    if (!always) ways.push_back(i + (isWide(insn) ? 2 : 1));
  }
  return true;
}

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
  if (length > kFar || makesTailCalls(insns) || !alwaysSetsVerdict(insns, length)) return std::nullopt;
  std::set<int> used;
  for (size_t i = 0; i < length; i++) {
    if (mayEnd(insns[i])) return std::nullopt;
    used.insert(insns[i].dst_reg);
    used.insert(insns[i].src_reg);
    if (isWide(insns[i])) i++;
  }
  for (int reg = kFirstKept; reg <= kLastKept; reg++)
    if (!used.contains(reg)) return ContextHome{.reg = static_cast<uint8_t>(reg)};
  constexpr int kSlot = 8;  // the first one is the prologue's
  int deepest = std::max((stackOf(insns, length) + kSlot - 1) / kSlot, 1) * kSlot + kSlot;
  if (deepest > kStack) return std::nullopt;
  return ContextHome{.slot = static_cast<int16_t>(-deepest)};
}

void returnTo(std::vector<bpf_insn> &insns, ptrdiff_t target) {
  size_t length = entryLength(insns);
  for (size_t i = 0; i < length; i++) {
    auto &insn = insns[i];
    if (isWide(insn)) {
      i++;
    } else if (isExit(insn)) {
      insn = {};
      insn.code = BPF_JMP | BPF_JA;
      insn.off = static_cast<int16_t>(target - static_cast<ptrdiff_t>(i) - 1);
    }
  }
}

}  // namespace remora
