// SPDX-License-Identifier: Apache-2.0
#include "maps.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <memory>
#include <set>

namespace remora {
namespace {

bool perCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
         type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

// What the kernel copies of a value. Of maps that hold programs or maps, user space reads ids.
Result<size_t> valueBytes(const bpf_map_info &info) {
  if (!perCpu(info.type)) return size_t{info.value_size};
  int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return failedDoing("how many CPUs there can be (/sys/devices/system/cpu/possible)", -cpus);
  return ((info.value_size + 7ul) & ~7ul) * static_cast<size_t>(cpus);
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
                                                                {"prog_array", BPF_MAP_TYPE_PROG_ARRAY},
                                                                {"ringbuf", BPF_MAP_TYPE_RINGBUF}};
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
  auto bytes = valueBytes(*info);
  if (!bytes) return bytes.failure();
  if (value.size() != *bytes) return failed(EINVAL, sizes("the value", value.size(), *bytes));
  if (bpf_map_update_elem(map, key.data(), value.data(), BPF_ANY)) return failedErrno();
  return true;
}

Result<bool> deleteFromMap(int map, const Blob &key) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (key.size() != info->key_size) return failed(EINVAL, sizes("the key", key.size(), info->key_size));
  if (bpf_map_delete_elem(map, key.data()) && errno != ENOENT) return failedErrno();
  return true;
}

Result<std::optional<Blob>> lookUpMap(int map, const Blob &key) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (key.size() != info->key_size) return failed(EINVAL, sizes("the key", key.size(), info->key_size));
  auto bytes = valueBytes(*info);
  if (!bytes) return bytes.failure();
  Blob value(*bytes);
  if (bpf_map_lookup_elem(map, key.data(), value.data()) == 0) return std::optional<Blob>(std::move(value));
  if (errno == ENOENT) return std::optional<Blob>();
  return failedErrno();
}

Result<Entries> mapEntries(int map, uint32_t limit) {
  auto info = describe(map);
  if (!info) return info.failure();
  auto bytes = valueBytes(*info);
  if (!bytes) return bytes.failure();
  Entries entries{{}, false};
  // A key that is deleted under the walk sends it back to the start: so keys already seen are known, and steps counted.
  std::set<Blob> seen;
  Blob key(info->key_size), next(info->key_size), value(*bytes);
  bool first = true;
  for (uint64_t steps = 0; steps < 2ull * info->max_entries + 2; steps++) {
    if (bpf_map_get_next_key(map, first ? nullptr : key.data(), next.data())) {
      if (errno == ENOENT) return entries;
      return failedErrno();
    }
    first = false;
    key = next;
    if (!seen.insert(key).second) continue;
    if (bpf_map_lookup_elem(map, key.data(), value.data())) {
      if (errno == ENOENT) continue;  // an empty slot, or gone meanwhile
      return failedErrno();
    }
    if (entries.list.size() == limit) {
      entries.more = true;
      return entries;
    }
    entries.list.emplace_back(key, value);
  }
  return entries;
}

Result<Snapshot> readMap(int map) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (perCpu(info->type)) return failed(EOPNOTSUPP, "a map with a value per CPU is not read by batches");
  size_t keySize = info->key_size, valueSize = info->value_size;
  // Where a batch ended: a hash's bucket, an array's key.
  Blob from(std::max<size_t>(keySize, 4)), to(from.size());
  Snapshot all{0, {}, {}};
  uint32_t room = 4096;
  for (bool first = true;;) {
    uint32_t count = room;
    all.keys.resize((all.count + size_t{room}) * keySize);
    all.values.resize((all.count + size_t{room}) * valueSize);
    int failure = bpf_map_lookup_batch(map, first ? nullptr : from.data(), to.data(),
                                       all.keys.data() + all.count * keySize,
                                       all.values.data() + all.count * valueSize, &count, nullptr);
    if (failure == -ENOSPC && room < info->max_entries) {  // a bucket holds more than there is room for
      room = std::min<uint64_t>(2ull * room, info->max_entries);
      continue;
    }
    if (failure && failure != -ENOENT) return failed(-failure);
    all.count += count;
    all.keys.resize(all.count * keySize);
    all.values.resize(all.count * valueSize);
    if (failure) return all;
    first = false;
    std::swap(from, to);
  }
}

Result<std::optional<KeyAndValue>> mapTypes(int map) {
  auto info = describe(map);
  if (!info) return info.failure();
  if (info->btf_id == 0 || info->btf_value_type_id == 0) return std::optional<KeyAndValue>();
  std::unique_ptr<btf, void (*)(btf *)> types(btf__load_from_kernel_by_id(info->btf_id), btf__free);
  if (!types) return failedErrno();
  KeyAndValue found{describeType(types.get(), info->btf_key_type_id),
                    describeType(types.get(), info->btf_value_type_id)};
  if (info->btf_key_type_id == 0) {  // sections of variables: one value, and a key that says nothing
    found.key.kind = "other";
    found.key.size = info->key_size;
  }
  return std::optional<KeyAndValue>(std::move(found));
}

Result<UniqueFd> openMapById(uint32_t id) {
  int fd = bpf_map_get_fd_by_id(id);
  if (fd < 0) return failed(-fd);
  return UniqueFd(fd);
}

Result<UniqueFd> openProgramById(uint32_t id) {
  int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return failed(-fd);
  return UniqueFd(fd);
}

int freezeMap(int map) { return bpf_map_freeze(map); }

// A write to a map of maps returns only when no running program can hold the former value: the kernel waits for a
// grace period (maybe_wait_bpf_programs in kernel/bpf/syscall.c). TC programs run inside of an RCU reader's section
// from the chain's first position to its last.
int awaitPrograms() {
  UniqueFd inner(bpf_map_create(BPF_MAP_TYPE_ARRAY, "remora_inner", 4, 4, 1, nullptr));
  if (!inner) return -errno;
  LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<uint32_t>(inner.get()));
  UniqueFd outer(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "remora_wait", 4, 4, 1, &options));
  if (!outer) return -errno;
  uint32_t slot = 0;
  int map = inner.get();
  return bpf_map_update_elem(outer.get(), &slot, &map, BPF_ANY) ? -errno : 0;
}

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
  return ProgramState{info.id, info.name, type ? type : "unknown", tag, ids,
                      info.xlated_prog_len / static_cast<uint32_t>(sizeof(bpf_insn)), info.verified_insns};
}

}  // namespace remora
