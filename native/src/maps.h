// SPDX-License-Identifier: Apache-2.0
// Maps, and what the kernel says of maps and programs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "btf.h"
#include "fd.h"
#include "result.h"

namespace remora {

struct MapDefinition {
  std::string type, name;
  uint32_t keySize, valueSize, maxEntries;
};
Result<UniqueFd> createMap(const MapDefinition &definition);

struct MapState {
  uint32_t id;
  std::string type, name;
  uint32_t keySize, valueSize, maxEntries;
};
Result<MapState> mapInfo(int map);

using Blob = std::vector<uint8_t>;
// EINVAL where a size differs from the map's.
Result<bool> updateMap(int map, const Blob &key, const Blob &value);
// Success where there is no such key.
Result<bool> deleteFromMap(int map, const Blob &key);
// Nothing where there is no such key. A per-CPU map's values one after the other, each padded to 8 bytes.
Result<std::optional<Blob>> lookUpMap(int map, const Blob &key);
int freezeMap(int map);

Result<UniqueFd> openMapById(uint32_t id);
Result<UniqueFd> openProgramById(uint32_t id);

// Returns when every program that was running has ended. 0 or a negative errno.
int awaitPrograms();

// Up to `limit` entries, none twice, and whether there were more.
struct Entries {
  std::vector<std::pair<Blob, Blob>> list;
  bool more;
};
Result<Entries> mapEntries(int map, uint32_t limit);

// All entries, by batches. Not of a map with a value per CPU.
struct Snapshot {
  uint32_t count;
  Blob keys, values;
};
Result<Snapshot> readMap(int map);

struct KeyAndValue {
  Type key, value;
};
// Nothing where the map has no BTF.
Result<std::optional<KeyAndValue>> mapTypes(int map);

struct ProgramState {
  uint32_t id;
  std::string name, type, tag;
  std::vector<uint32_t> mapIds;
  uint32_t instructions, verified;
};
Result<ProgramState> programInfo(int program);

}  // namespace remora
