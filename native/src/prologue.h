// SPDX-License-Identifier: Apache-2.0
// The instructions that a stage puts in front of a user's program.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace remora {

// `StageTrace` of plugin/kernel/port.ts.
struct TraceSpec {
  int events, state;
  uint32_t sample, bytes, tag;
};

struct PrologueSpec {
  uint32_t position, length;
  std::vector<int32_t> proceedOn;
  bool closed;     // what a broken tail call does: true drops, false passes
  bool countHead;  // count packets and bytes on entry
  int chain, counters;
  // What stages behind a program tell it of a packet's end, by map: `StageRequest.endings` of plugin/kernel/port.ts.
  std::vector<int> endings;
  // The program's name, for those who are told.
  std::string name;
  // Where each entry starts, in instructions after the prologue's end.
  std::vector<uint32_t> entries;
  std::optional<TraceSpec> trace;
};

std::vector<bpf_insn> generatePrologue(const PrologueSpec &spec);

}  // namespace remora
