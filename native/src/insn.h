// SPDX-License-Identifier: Apache-2.0
// Reading relocated BPF instructions.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <set>
#include <vector>

namespace remora {

// A 64-bit constant, which takes the place of two instructions.
inline bool isWide(const bpf_insn &insn) { return insn.code == (BPF_LD | BPF_IMM | BPF_DW); }

// Where the functions start that are called, or whose address is taken, from an instruction on.
inline std::set<uint32_t> functionStarts(const std::vector<bpf_insn> &insns, size_t from) {
  std::set<uint32_t> starts;
  for (size_t i = from; i < insns.size(); i++) {
    auto &insn = insns[i];
    bool calls = insn.code == (BPF_JMP | BPF_CALL) && insn.src_reg == BPF_PSEUDO_CALL;
    if (calls || (isWide(insn) && insn.src_reg == BPF_PSEUDO_FUNC))
      starts.insert(static_cast<uint32_t>(static_cast<int64_t>(i) + insn.imm + 1));
    if (isWide(insn)) i++;
  }
  return starts;
}

}  // namespace remora
