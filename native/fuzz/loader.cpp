// SPDX-License-Identifier: Apache-2.0
// The fuzz target: one input is one object file. It is inspected, as the catalog does with every file of a program
// directory, and then loaded as a stage, from each of its first functions, on a kernel that accepts everything
// (kernel.cpp): so libbpf's relocations and the prologue see what the file makes of them, and the real kernel nothing.
#include <cstdlib>

#include "../src/inspect.h"
#include "../src/stage.h"

namespace {

constexpr size_t kEntries = 3;

// Reads every byte, so that the sanitizer sees those that do not belong to us.
void use(const std::string &text) {
  volatile char sink = 0;
  for (char c : text) sink = sink ^ c;
}
void use(const remora::Type &type) {
  use(type.kind + type.name + type.encoding);
  for (auto &value : type.values) use(value.name);
  for (auto &member : type.members) use(member.name);
  for (auto &inner : type.inner) use(inner);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  auto facts = remora::inspectObject({data, size});
  if (!facts) {
    if (facts.failure().message.empty()) abort();  // a refusal without a reason
    return 0;
  }
  use(facts->license);
  for (auto &map : facts->maps) use(map.name + map.type);
  std::vector<remora::StageParameter> parameters;
  for (auto &parameter : facts->parameters) {
    use(parameter.name);
    use(parameter.type);
    parameters.push_back({parameter.name, parameter.initial});
  }
  for (size_t i = 0; i < facts->programs.size() && i < kEntries; i++) {
    remora::StageSpec spec{.object = {data, size},
                           .name = "fuzz.bpf",
                           .entries = {{facts->programs[i].name, parameters}},
                           .position = static_cast<uint32_t>(i),
                           .length = 2 + static_cast<uint32_t>(i % 2),
                           .proceedOn = {-1, 0, 3},
                           .closed = i % 2 == 0,
                           .chain = 1000,
                           .counters = 1001,
                           .countHead = i % 2 == 0,
                           .reuse = {}};
    if (spec.position >= spec.length) spec.length = spec.position + 1;
    // Its instructions in place, or a function: some bit of the input says.
    if (data[size / 2] & 1) spec.trace = {.events = 1002, .state = 1003, .sample = 1, .bytes = 64, .tag = 0};
    auto stage = remora::loadStage(spec);
    if (stage)
      for (auto &map : stage->maps) use(map.name + map.type);
    else if (stage.failure().message.empty())
      abort();
  }
  return 0;
}

// libbpf 1.5 itself forgets its table of candidates where a CO-RE record of a damaged object points outside of its section.
extern "C" const char *__lsan_default_suppressions() { return "leak:bpf_object__relocate_core\n"; }
