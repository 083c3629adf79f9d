// SPDX-License-Identifier: Apache-2.0
#include "maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

namespace remora {
namespace {

bool perCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
         type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

// Of maps that hold programs or maps, user space reads ids.
size_t valueBytes(const bpf_map_info &info) {
  if (!perCpu(info.type)) return info.value_size;
  int cpus = libbpf_num_possible_cpus();
  return cpus < 0 ? 0 : ((info.value_size + 7ul) & ~7ul) * static_cast<size_t>(cpus);
}

std::string sizes(const char *what, size_t given, size_t wanted) {
  return std::string(what) + " has " + std::to_string(given) + " bytes, and the map's have " + std::to_string(wanted);
}

Result<bpf_map_info> describe(int map) {
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_map_get_info_by_fd(map, &info, &size)) return failedErrno();
  return info;
}

}  // namespace

Result<UniqueFd> createMap(const MapDefinition &definition) {
  static const std::pair<const char *, bpf_map_type> types[] = {{"array", BPF_MAP_TYPE_ARRAY},
                                                                {"hash", BPF_MAP_TYPE_HASH},
                                                                {"percpu_array", BPF_MAP_TYPE_PERCPU_ARRAY},
                                                                {"prog_array", BPF_MAP_TYPE_PROG_ARRAY}};
  for (auto &[name, type] : types) {
    if (definition.type != name) continue;
    std::string label;  // the kernel takes 15 bytes of [A-Za-z0-9_.]
    for (char c : definition.name.substr(0, BPF_OBJ_NAME_LEN - 1))
      label += isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' ? c : '_';
    int fd = bpf_map_create(type, label.c_str(), definition.keySize, definition.valueSize, definition.maxEntries,
                            nullptr);
    if (fd < 0) return failed(-fd);
    return UniqueFd(fd);
  }
  return failed(EINVAL, "no such map type here: " + definition.type);
}

Result<MapState> mapInfo(int map) {
  auto info = describe(map);
  if (!info) return info.failure();
  auto type = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(info->type));
  return MapState{info->id, type ? type : "unknown", info->name, info->key_size, info->value_size, info->max_entries};
}

Result<bool> updateMap(int map, const Blob &key, const Blob &value) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (key.size() != info->key_size) return failed(EINVAL, sizes("the key", key.size(), info->key_size));
  if (value.size() != valueBytes(*info)) return failed(EINVAL, sizes("the value", value.size(), valueBytes(*info)));
  if (bpf_map_update_elem(map, key.data(), value.data(), BPF_ANY)) return failedErrno();
  return true;
}

Result<std::optional<Blob>> lookUpMap(int map, const Blob &key) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (key.size() != info->key_size) return failed(EINVAL, sizes("the key", key.size(), info->key_size));
  Blob value(valueBytes(*info));
  if (bpf_map_lookup_elem(map, key.data(), value.data()) == 0) return std::optional<Blob>(std::move(value));
  if (errno == ENOENT) return std::optional<Blob>();
  return failedErrno();
}

int freezeMap(int map) { return bpf_map_freeze(map); }

Result<ProgramState> programInfo(int program) {
  // Twice: the first call says how many maps there are.
  std::vector<uint32_t> ids;
  bpf_prog_info info{};
  for (int round = 0; round < 2; round++) {
    ids.resize(info.nr_map_ids);
    uint32_t count = info.nr_map_ids, size = sizeof(info);
    info = {};
    info.nr_map_ids = count;
    info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    if (bpf_prog_get_info_by_fd(program, &info, &size)) return failedErrno();
  }
  ids.resize(std::min<size_t>(ids.size(), info.nr_map_ids));
  char tag[2 * BPF_TAG_SIZE + 1];
  for (int i = 0; i < BPF_TAG_SIZE; i++) snprintf(tag + 2 * i, 3, "%02x", info.tag[i]);
  auto type = libbpf_bpf_prog_type_str(static_cast<bpf_prog_type>(info.type));
  return ProgramState{info.id, info.name, type ? type : "unknown", tag, ids};
}

}  // namespace remora
