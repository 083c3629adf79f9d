// SPDX-License-Identifier: Apache-2.0
// The instructions that a stage puts in front of a user's program: the entry is a function that they call, or its
// instructions belong to the stage itself.
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

// Where the context waits while instructions run that belong to the stage: a register that they leave alone, or a slot on
// the stack beneath theirs (`reg` is 0 then).
struct ContextHome {
  uint8_t reg = 0;
  int16_t slot = 0;
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
  std::optional<TraceSpec> trace;
  // Where the entry is no function: its instructions follow, and go to `Prologue::verdict` with their verdict in r0.
  std::optional<ContextHome> home;
};

struct Prologue {
  std::vector<bpf_insn> insns;  // the entry starts behind them
  size_t verdict = 0;
};

Prologue generatePrologue(const PrologueSpec &spec);

}  // namespace remora
