// SPDX-License-Identifier: Apache-2.0
#include "code.h"

#include <elf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>

namespace remora {
namespace {

constexpr uint32_t kMany = 1000;  // far above the kernel's budget: counting further says nothing

bool changesLength(int helper) {
  switch (helper) {
    case BPF_FUNC_skb_vlan_push:
    case BPF_FUNC_skb_vlan_pop:
    case BPF_FUNC_skb_change_proto:
    case BPF_FUNC_skb_change_tail:
    case BPF_FUNC_skb_change_head:
    case BPF_FUNC_skb_adjust_room:
      return true;
    default:
      return false;
  }
}

}  // namespace

Code::Code(const Elf &elf) : elf_(elf) {
  for (auto &symbol : elf.symbols) {
    if (symbol.type != STT_FUNC || symbol.section >= elf.sections.size() || symbol.section == SHN_UNDEF) continue;
    auto &section = elf.sections[symbol.section];
    if (!(section.flags & SHF_EXECINSTR) || symbol.value >= section.data.size()) continue;
    uint64_t end = symbol.size <= section.data.size() - symbol.value ? symbol.value + symbol.size : 0;
    functions_.push_back({symbol.section, symbol.value, end, symbol.name});
  }
  std::sort(functions_.begin(), functions_.end(),
            [](auto &a, auto &b) { return std::tie(a.section, a.start) < std::tie(b.section, b.start); });
  if (functions_.size() > kMany) functions_.resize(kMany);  // more than the kernel loads; bounds the recursion below
  for (auto &function : functions_) facts_.push_back(scan(function));

  for (uint32_t index = 0; index < elf.sections.size(); index++) {
    if (elf.sections[index].name != ".maps") continue;
    auto relocations = elf.relocations.find(index);
    if (relocations == elf.relocations.end()) continue;
    for (auto [offset, target] : relocations->second) {
      if (elf.symbols[target].type == STT_OBJECT) inner_.insert(elf.symbols[target].name);
      if (elf.symbols[target].type != STT_FUNC) continue;
      for (auto &map : elf.symbols)
        if (map.section == index && map.type == STT_OBJECT && offset >= map.value && offset - map.value < map.size)
          slots_[std::string(map.name)].emplace(elf.symbols[target].name);
    }
  }
}

Code::Facts Code::scan(const Function &function) const {
  Facts facts;
  auto addTargets = [&](uint32_t section, uint64_t start, std::vector<size_t> &list) {
    for (size_t i = 0; i < functions_.size(); i++)
      if (functions_[i].section == section && functions_[i].start == start) list.push_back(i);
  };
  auto data = elf_.sections[function.section].data;
  auto relocations = elf_.relocations.find(function.section);
  for (uint64_t at = function.start; at + sizeof(bpf_insn) <= function.end; at += sizeof(bpf_insn)) {
    bpf_insn insn;
    std::memcpy(&insn, data.data() + at, sizeof(insn));
    const ElfSymbol *symbol = nullptr;
    if (relocations != elf_.relocations.end())
      if (auto found = relocations->second.find(at); found != relocations->second.end())
        symbol = &elf_.symbols[found->second];

    if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) {
      if (symbol && symbol->section < elf_.sections.size() && elf_.sections[symbol->section].name == ".maps")
        facts.maps.insert(symbol->name);
      if (symbol) addTargets(symbol->section, symbol->value + static_cast<int64_t>(insn.imm), facts.callbacks);
      at += sizeof(bpf_insn);  // it fills two slots
      continue;
    }
    if (insn.code != (BPF_JMP | BPF_CALL)) continue;
    if (insn.src_reg == 0) {
      if (insn.imm == BPF_FUNC_tail_call) facts.sites++;
      if (changesLength(insn.imm)) facts.resizes = true;
      continue;
    }
    // A BPF-to-BPF call: relative, or against a function's or a section's symbol; or a kfunc (an undefined symbol).
    if (symbol == nullptr)
      addTargets(function.section, at + sizeof(bpf_insn) + static_cast<int64_t>(insn.imm) * 8, facts.callees);
    else if (symbol->section == SHN_UNDEF)
      facts.externs.insert(symbol->name);
    else
      addTargets(symbol->section, symbol->value + (static_cast<int64_t>(insn.imm) + 1) * 8, facts.callees);
  }
  return facts;
}

const Reach &Code::reach(size_t index, std::vector<int> &state, std::vector<Reach> &memo) const {
  auto &result = memo[index];
  if (state[index] != 0) return result;  // done, or a recursion, which the verifier refuses anyway
  state[index] = 1;
  auto &facts = facts_[index];
  result.tailCalls = std::min(facts.sites, kMany);
  result.resizes = facts.resizes;
  result.externs = facts.externs;
  result.maps = facts.maps;
  for (size_t callee : facts.callees) {
    auto &below = reach(callee, state, memo);
    result.tailCalls = std::min(result.tailCalls + below.tailCalls, kMany);
    result.resizes |= below.resizes;
    result.externs.insert(below.externs.begin(), below.externs.end());
    result.maps.insert(below.maps.begin(), below.maps.end());
  }
  for (size_t callback : facts.callbacks) {  // the verifier allows them no tail calls
    auto &below = reach(callback, state, memo);
    result.resizes |= below.resizes;
    result.externs.insert(below.externs.begin(), below.externs.end());
    result.maps.insert(below.maps.begin(), below.maps.end());
  }
  return result;
}

Reach Code::reach(const std::string &section, const std::string &function) const {
  std::vector<int> state(functions_.size());
  std::vector<Reach> memo(functions_.size());
  for (size_t i = 0; i < functions_.size(); i++)
    if (functions_[i].name == function && elf_.sections[functions_[i].section].name == section)
      return reach(i, state, memo);
  return {};
}

}  // namespace remora
