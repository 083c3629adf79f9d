// SPDX-License-Identifier: Apache-2.0
// What the instructions of an object do, as far as a chain cares: who calls whom, tail calls, helpers that resize the
// packet, calls of kfuncs. Read from the ELF file alone; nothing is loaded.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "elffile.h"

namespace remora {

// All that one run of a function can reach through calls (not through tail calls).
struct Reach {
  uint32_t tailCalls = 0;  // upper bound of those that succeed in one run, loops left aside
  bool resizes = false;
  std::set<std::string_view> externs;  // kfuncs it calls
  std::set<std::string_view> maps;     // of those in `.maps`
};

class Code {
 public:
  explicit Code(const Elf &elf);

  // By section and name, as libbpf names a program; nothing for one that is not here.
  Reach reach(const std::string &section, const std::string &function) const;
  // Functions that initialised slots of maps in `.maps` name (PROG_ARRAYs), by name of the map's symbol.
  const std::map<std::string, std::set<std::string>> &initialisedSlots() const { return slots_; }
  // Maps that stand in slots of others from the start.
  const std::set<std::string_view> &initialInner() const { return inner_; }

 private:
  struct Function {
    uint32_t section;
    uint64_t start, end;
    std::string_view name;
  };
  struct Facts {
    uint32_t sites = 0;
    bool resizes = false;
    std::set<std::string_view> externs;
    std::set<std::string_view> maps;
    std::vector<size_t> callees;    // once per call site
    std::vector<size_t> callbacks;  // functions whose address is taken
  };

  Facts scan(const Function &function) const;
  const Reach &reach(size_t index, std::vector<int> &state, std::vector<Reach> &memo) const;

  const Elf &elf_;
  std::vector<Function> functions_;
  std::vector<Facts> facts_;
  std::map<std::string, std::set<std::string>> slots_;
  std::set<std::string_view> inner_;
};

}  // namespace remora
