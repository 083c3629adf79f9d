// SPDX-License-Identifier: Apache-2.0
#include "open.h"

#include <bpf/btf.h>
#include <elf.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "btf.h"

namespace remora {
namespace {

thread_local std::string captured;
thread_local PrepareLoad preparing;
thread_local std::string relocation;  // the CO-RE relocation that libbpf is at
thread_local std::vector<Unresolved> unresolved;

// `<byte_off> [33] struct sk_buff.field (0:3 @ offset 24)`: what it names.
std::string subjectOf(const std::string &relocation) {
  auto start = relocation.find("] ");
  auto end = relocation.rfind(" (");
  if (start == std::string::npos || end == std::string::npos || end < start + 2) return relocation;
  return relocation.substr(start + 2, end - start - 2);
}

// libbpf makes a call of no helper out of each access to what this kernel does not have, and tells its debug log alone what
// that was. It tells that log a lot: two formats are looked at, the rest is not even written out.
void watchRelocations(std::string_view format, va_list arguments) {
  bool describes = format.ends_with("prog '%s': relo #%d: %s\n");
  if (!describes && !format.ends_with("prog '%s': relo #%d: substituting insn #%d w/ invalid insn\n")) return;
  std::string program = va_arg(arguments, const char *);
  va_arg(arguments, int);
  if (describes) relocation = va_arg(arguments, const char *);
  else unresolved.push_back({program, va_arg(arguments, int), subjectOf(relocation)});
}

int capture(libbpf_print_level level, const char *format, va_list arguments) {
  if (level == LIBBPF_DEBUG) {
    watchRelocations(format, arguments);
    return 0;
  }
  char line[2048];
  int length = vsnprintf(line, sizeof(line), format, arguments);
  if (length > 0 && captured.size() < (1u << 20)) captured.append(line);
  return 0;
}

int prepareLoad(bpf_program *program, bpf_prog_load_opts *options, long) {
  return preparing ? preparing(program, options) : 0;
}

}  // namespace

void captureLog() { libbpf_set_print(capture); }

namespace {

// Each with or without a suffix behind a slash.
const std::vector<std::string> tcSections = {"tc", "classifier", "tcx", "netkit", "action"};

// libbpf gives its own handlers to the sections it knows, with their expected_attach_type; a handler of ours comes
// before them. All members of one PROG_ARRAY must share that type, so it is 0 for all: tcx/* and netkit/* included.
void registerHandlers() {
  captureLog();
  LIBBPF_OPTS(libbpf_prog_handler_opts, options, .prog_prepare_load_fn = prepareLoad);
  for (auto &section : tcSections)
    libbpf_register_prog_handler((section + "+").c_str(), BPF_PROG_TYPE_SCHED_CLS, static_cast<bpf_attach_type>(0), &options);
  libbpf_register_prog_handler(nullptr, BPF_PROG_TYPE_SCHED_CLS, static_cast<bpf_attach_type>(0), &options);
}

// libbpf follows typedefs and qualifiers without a limit, so a circle of them would hang it.
bool hasModifierCircle(const btf *types) {
  uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    auto type = btf__type_by_id(types, id);
    for (int depth = 0; type && isModifier(type); depth++) {
      if (depth > kModifiers) return true;
      type = btf__type_by_id(types, type->type);
    }
  }
  return false;
}

// What a program without a section that libbpf knows is meant for, by what its function takes.
std::optional<bpf_prog_type> typeByContext(const btf *types, const bpf_program *program) {
  static const std::map<std::string, bpf_prog_type> contexts = {
      {"xdp_md", BPF_PROG_TYPE_XDP},
      {"pt_regs", BPF_PROG_TYPE_KPROBE},
      {"bpf_sock_ops", BPF_PROG_TYPE_SOCK_OPS},
      {"sk_msg_md", BPF_PROG_TYPE_SK_MSG},
      {"bpf_sock", BPF_PROG_TYPE_CGROUP_SOCK},
      {"bpf_sock_addr", BPF_PROG_TYPE_CGROUP_SOCK_ADDR},
      {"sk_reuseport_md", BPF_PROG_TYPE_SK_REUSEPORT},
      {"bpf_sk_lookup", BPF_PROG_TYPE_SK_LOOKUP},
      {"bpf_perf_event_data", BPF_PROG_TYPE_PERF_EVENT},
  };
  if (!types) return std::nullopt;
  auto found = contexts.find(contextOf(types, bpf_program__name(program)));
  return found == contexts.end() ? std::nullopt : std::optional(found->second);
}

// Sections that libbpf does not know were taken for TC's, which most are: `tc-ingress`, `classifier_egress`. Some are not:
// `xdp_ratelimiting`, `kprobe_tcp_close`. The verifier would refuse those in words that say nothing.
void settleTypes(bpf_object *object) {
  bpf_program *program;
  bpf_object__for_each_program(program, object) {
    std::string section = bpf_program__section_name(program);
    std::string own = section.substr(0, section.find('/'));
    if (bpf_program__type(program) != BPF_PROG_TYPE_SCHED_CLS || std::ranges::find(tcSections, own) != tcSections.end())
      continue;
    if (auto type = typeByContext(bpf_object__btf(object), program)) bpf_program__set_type(program, *type);
    else if (section.starts_with("xdp")) bpf_program__set_type(program, BPF_PROG_TYPE_XDP);
  }
}

// Maps whose keys and values can only be file descriptors and indices: other loaders let their sizes be left out.
void settleMaps(bpf_object *object) {
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    auto type = static_cast<uint32_t>(bpf_map__type(map));  // a damaged object may say any number
    if (type != BPF_MAP_TYPE_PERF_EVENT_ARRAY && type != BPF_MAP_TYPE_PROG_ARRAY && type != BPF_MAP_TYPE_CGROUP_ARRAY)
      continue;
    if (bpf_map__key_size(map) == 0) bpf_map__set_key_size(map, sizeof(uint32_t));
    if (bpf_map__value_size(map) == 0) bpf_map__set_value_size(map, sizeof(uint32_t));
  }
}

}  // namespace

std::string takeLog() { return std::exchange(captured, {}); }

std::string firstLine(const std::string &log) {
  constexpr std::string_view prefix = "libbpf: ";
  std::string line;
  for (size_t at = 0; at < log.size(); at += line.size() + 1) {
    line = log.substr(at, log.find('\n', at) - at);
    if (line.find("Retrying without BTF") == std::string::npos) break;  // what it tries next may still work
  }
  return line.starts_with(prefix) ? line.substr(prefix.size()) : line;
}

Result<OpenObject> openObject(Bytes file, const std::string &name) {
  static std::once_flag once;
  std::call_once(once, registerHandlers);

  auto elf = parseElf(file);
  if (!elf) return elf.failure();
  if (elf->section("maps"))
    return refused(
        "the object defines its maps in the legacy section \"maps\", which libbpf 1.0 dropped: define them with BTF, "
        "in SEC(\".maps\")");
  bool code = false;
  for (auto &symbol : elf->symbols)
    if (symbol.type == STT_FUNC && symbol.section < elf->sections.size() && symbol.section != SHN_UNDEF) code = true;
  if (!code) return refused("the object holds no program");

  // Where its maps are pinned is never the object's choice, so that a way of pinning that another loader made up is no
  // reason to refuse it: libbpf does not get to see it.
  std::vector<uint8_t> copy;
  if (auto section = elf->section(".BTF"); section && !section->data.empty()) {
    std::unique_ptr<btf, void (*)(btf *)> types(btf__new(section->data.data(), section->data.size()), btf__free);
    if (types && hasModifierCircle(types.get())) return refused("the object's BTF is damaged: types in a circle");
    for (size_t offset : types ? unknownPinnings(types.get()) : std::vector<size_t>{}) {
      if (offset + sizeof(uint32_t) > section->data.size()) continue;
      if (copy.empty()) copy.assign(file.begin(), file.end());
      std::memset(copy.data() + (section->data.data() - file.data()) + offset, 0, sizeof(uint32_t));
    }
  }

  std::string prefix;
  for (char c : name) prefix += isalnum(static_cast<unsigned char>(c)) ? c : '_';
  if (prefix.empty()) prefix = "remora";
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = prefix.c_str(), .relaxed_maps = !copy.empty());
  takeLog();
  Bytes readable = copy.empty() ? file : Bytes(copy);
  Object object(bpf_object__open_mem(readable.data(), readable.size(), &options));
  if (!object) {
    int error = errno;
    std::string log = takeLog();
    std::string reason = log.empty() ? strerror(error) : firstLine(log);
    return Failure{kRefused, "the object cannot be read: " + reason, log};
  }
  settleTypes(object.get());
  settleMaps(object.get());
  return OpenObject{std::move(*elf), std::move(object)};
}

int loadObject(bpf_object *object, PrepareLoad prepare) {
  unresolved.clear();
  preparing = std::move(prepare);
  int error = bpf_object__load(object);
  preparing = nullptr;
  return error;
}

const std::vector<Unresolved> &unresolvedRelocations() { return unresolved; }

std::string mapName(const bpf_map *map) {
  std::string name = bpf_map__name(map);
  if (!bpf_map__is_internal(map)) return name;
  auto dot = name.find('.');
  return dot == std::string::npos ? name : name.substr(dot);
}

}  // namespace remora
