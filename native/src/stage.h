// SPDX-License-Identifier: Apache-2.0
// Loading one stage of a chain: `loadStage` of plugin/kernel/port.ts.
#pragma once

#include <string>
#include <vector>

#include "elffile.h"
#include "fd.h"
#include "prologue.h"

namespace remora {

struct StageParameter {
  std::string name;
  std::vector<uint8_t> bytes;
};
struct StageEntry {
  std::string function;
  std::vector<StageParameter> parameters;
};
struct ReusedMap {
  std::string name;
  int fd;
};
struct StageSpec {
  Bytes object;
  std::string name;
  std::vector<StageEntry> entries;
  uint32_t position, length;
  std::vector<int32_t> proceedOn;
  bool closed;
  int chain, counters;
  std::vector<int> endings;
  bool countHead;
  std::vector<ReusedMap> reuse;
  std::vector<std::string> without;
  std::optional<TraceSpec> trace;
};
struct StageMap {
  std::string name, type;
  UniqueFd fd;
  uint32_t id;
  bool pinned, internal;
};
struct LoadedStage {
  UniqueFd program;
  uint32_t programId = 0;
  bool placed = false;  // see inplace.h
  std::vector<StageMap> maps;
};

Result<LoadedStage> loadStage(const StageSpec &spec);

}  // namespace remora
