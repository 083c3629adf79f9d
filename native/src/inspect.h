// SPDX-License-Identifier: Apache-2.0
// What an object holds: `ObjectInfo` of plugin/kernel/port.ts, field by field. Nothing is loaded.
#pragma once

#include "btf.h"
#include "elffile.h"

namespace remora {

struct ProgramFacts {
  std::string name, section, type;
  uint32_t tailCalls;
  bool inner, resizes;
};
struct MapFacts {
  std::string name, type;
  uint32_t keySize, valueSize, maxEntries, flags;
  bool pinned, internal;
  std::vector<std::string> tags;
  std::string layout;  // a digest of how keys and values are laid out, by BTF; empty where that is not known
};
struct ObjectFacts {
  std::vector<ProgramFacts> programs;
  std::vector<MapFacts> maps;
  std::vector<Parameter> parameters;
  std::string license;
  bool btf;
};

Result<ObjectFacts> inspectObject(Bytes file);

}  // namespace remora
