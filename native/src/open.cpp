// SPDX-License-Identifier: Apache-2.0
#include "open.h"

#include <bpf/btf.h>
#include <elf.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace remora {
namespace {

thread_local std::string captured;
thread_local PrepareLoad preparing;

int capture(libbpf_print_level level, const char *format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
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

// libbpf gives its own handlers to the sections it knows, with their expected_attach_type; a handler of ours comes
// before them. All members of one PROG_ARRAY must share that type, so it is 0 for all: tcx/* and netkit/* included.
void registerHandlers() {
  captureLog();
  LIBBPF_OPTS(libbpf_prog_handler_opts, options, .prog_prepare_load_fn = prepareLoad);
  for (const char *section : {"tc+", "classifier+", "tcx+", "netkit+", "action+"})
    libbpf_register_prog_handler(section, BPF_PROG_TYPE_SCHED_CLS, static_cast<bpf_attach_type>(0), &options);
  libbpf_register_prog_handler(nullptr, BPF_PROG_TYPE_SCHED_CLS, static_cast<bpf_attach_type>(0), &options);
}

bool isModifier(const btf_type *type) {
  return btf_is_typedef(type) || btf_is_mod(type) || btf_is_type_tag(type);
}

// libbpf follows typedefs and qualifiers without a limit, so a circle of them would hang it.
bool hasModifierCircle(const btf *types) {
  uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    auto type = btf__type_by_id(types, id);
    for (int depth = 0; type && isModifier(type); depth++) {
      if (depth > 64) return true;
      type = btf__type_by_id(types, type->type);
    }
  }
  return false;
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

  if (auto section = elf->section(".BTF"); section && !section->data.empty()) {
    std::unique_ptr<btf, void (*)(btf *)> types(btf__new(section->data.data(), section->data.size()), btf__free);
    if (types && hasModifierCircle(types.get())) return refused("the object's BTF is damaged: types in a circle");
  }

  std::string prefix;
  for (char c : name) prefix += isalnum(static_cast<unsigned char>(c)) ? c : '_';
  if (prefix.empty()) prefix = "remora";
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = prefix.c_str());
  takeLog();
  Object object(bpf_object__open_mem(file.data(), file.size(), &options));
  if (!object) {
    int error = errno;
    std::string log = takeLog();
    std::string reason = log.empty() ? strerror(error) : firstLine(log);
    return Failure{kRefused, "the object cannot be read: " + reason, log};
  }
  return OpenObject{std::move(*elf), std::move(object)};
}

int loadObject(bpf_object *object, PrepareLoad prepare) {
  preparing = std::move(prepare);
  int error = bpf_object__load(object);
  preparing = nullptr;
  return error;
}

std::string mapName(const bpf_map *map) {
  std::string name = bpf_map__name(map);
  if (!bpf_map__is_internal(map)) return name;
  auto dot = name.find('.');
  return dot == std::string::npos ? name : name.substr(dot);
}

}  // namespace remora
