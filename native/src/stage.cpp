// SPDX-License-Identifier: Apache-2.0
//
// The user's program follows on the prologue: just before libbpf hands the relocated instructions to the kernel, the
// prologue goes in front of them. All their jumps and calls are relative, so none of that changes; func_info and line_info
// move by the prologue's length and get one leading record for it.
//
// The entry's instructions belong to the stage itself wherever they can (inplace.h): that saves a call and a return.
// Where the verifier refuses that, or where it cannot be, the entry is loaded as a function.
//
// A function is always given the type of a GLOBAL one, `int f(struct __sk_buff *)`, whatever the object says. A
// global function is verified once, by itself, and its caller sees an unknown verdict. As a static one that tail-calls
// inside itself the verifier of Linux up to 6.12 follows only the tail call's fall-through, takes the verdict for a
// constant, and deletes the branch that goes on to the next position: the rest of the chain never runs, silently.
#include "stage.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "btf.h"
#include "code.h"
#include "inplace.h"
#include "insn.h"
#include "maps.h"
#include "open.h"
#include "prologue.h"
#include "verifier.h"

namespace remora {
namespace {

constexpr size_t kLogSize = 16u << 20;  // pages are only touched when the verifier writes
// What a person is given of a log: its beginning and its end. It travels in the answer to the container runtime.
constexpr size_t kLogHead = 32u << 10;
constexpr size_t kLogTail = 96u << 10;
// BPF_LOG_STATS of the kernel: what the verifier has to say in the end, not what it went through.
constexpr uint32_t kBriefLog = 4;

struct FreeBtf {
  void operator()(btf *types) const { btf__free(types); }
};

std::string identifier(const std::string &name) {
  std::string out;
  for (char c : name) out += isalnum(static_cast<unsigned char>(c)) ? c : '_';
  if (out.empty() || isdigit(static_cast<unsigned char>(out[0]))) out.insert(0, "_");
  return out.substr(0, 127);
}

// Puts the prologue in front of one program. Lives until the program is loaded: the load options point into it.
class Head {
 public:
  // `types`: the ids in the object's own BTF, where it has any. `inPlace`: whether the entry may belong to the stage.
  Head(const bpf_program *entry, PrologueSpec spec, std::string name, std::optional<StageTypes> types, bool inPlace)
      : entry_(entry), spec_(std::move(spec)), name_(std::move(name)), types_(types), inPlace_(inPlace) {}

  // libbpf's hook. A negative errno on failure.
  int operator()(bpf_program *program, bpf_prog_load_opts *options) {
    if (program != entry_) return 0;
    auto first = bpf_program__insns(program);
    std::vector<bpf_insn> user(first, first + bpf_program__insn_cnt(program));
    if (inPlace_) spec_.home = homeBeside(user);
    auto [insns, verdict] = generatePrologue(spec_);
    auto shift = shift_ = static_cast<uint32_t>(insns.size());
    if (spec_.home) returnTo(user, static_cast<ptrdiff_t>(verdict) - static_cast<ptrdiff_t>(shift));
    insns.insert(insns.end(), user.begin(), user.end());

    options->expected_attach_type = static_cast<bpf_attach_type>(0);
    bool described = types_ && options->prog_btf_fd > 0 && options->func_info && options->func_info_cnt > 0;
    int error = described ? describe(options, shift) : generate(options, insns, shift);
    return error ? error : bpf_program__set_insns(program, insns.data(), insns.size());
  }

  // By how many instructions the user's lie further back than in the object.
  uint32_t shift() const { return shift_; }
  // Whether the entry belongs to the stage.
  bool placed() const { return spec_.home.has_value(); }

 private:
  // The object describes its functions: move the records, and put ours before them. The first of theirs is the entry's:
  // it is global now, or no function.
  int describe(bpf_prog_load_opts *options, uint32_t shift) {
    auto size = options->func_info_rec_size;
    functions_ = shifted<bpf_func_info>(options->func_info, size, options->func_info_cnt, shift);
    if (functions_.empty()) return -EINVAL;
    if (placed()) {
      functions_.erase(functions_.begin(), functions_.begin() + size);
    } else {
      auto entry = bpf_func_info{shift, static_cast<uint32_t>(types_->entry)};
      std::memcpy(functions_.data() + size, &entry, sizeof(entry));
      options->func_info_cnt++;
    }
    auto prologue = bpf_func_info{0, static_cast<uint32_t>(types_->prologue)};
    std::memcpy(functions_.data(), &prologue, sizeof(prologue));
    options->func_info = functions_.data();

    if (!options->line_info || options->line_info_cnt == 0) return 0;
    lines_ = shifted<bpf_line_info>(options->line_info, options->line_info_rec_size, options->line_info_cnt, shift);
    if (lines_.empty()) return -EINVAL;
    auto line = bpf_line_info{0, types_->file, types_->line, 1 << 10};
    std::memcpy(lines_.data(), &line, sizeof(line));
    options->line_info = lines_.data();
    options->line_info_cnt++;
    return 0;
  }

  // The object does not: without func_info the verifier refuses tail calls in subprograms, so say what is known.
  int generate(bpf_prog_load_opts *options, const std::vector<bpf_insn> &insns, uint32_t shift) {
    generated_.reset(btf__new_empty());
    StageTypes types;
    if (!generated_ || !addStageTypes(generated_.get(), name_, identifier(bpf_program__name(entry_)), types))
      return -ENOMEM;
    auto starts = functionStarts(insns, shift);
    starts.erase(shift);
    std::vector<bpf_func_info> records{{0, static_cast<uint32_t>(types.prologue)}};
    if (!placed()) records.push_back({shift, static_cast<uint32_t>(types.entry)});
    for (uint32_t start : starts) {
      int32_t id = addUnknownFunction(generated_.get(), "subprogram_" + std::to_string(start - shift));
      if (id < 0) return id;
      records.push_back({start, static_cast<uint32_t>(id)});
    }
    if (int error = btf__load_into_kernel(generated_.get())) return error;

    auto bytes = reinterpret_cast<const uint8_t *>(records.data());
    functions_.assign(bytes, bytes + records.size() * sizeof(bpf_func_info));
    options->prog_btf_fd = static_cast<uint32_t>(btf__fd(generated_.get()));
    options->func_info = functions_.data();
    options->func_info_rec_size = sizeof(bpf_func_info);
    options->func_info_cnt = static_cast<uint32_t>(records.size());
    options->line_info = nullptr;
    options->line_info_cnt = 0;
    return 0;
  }

  // A copy of the records with room for one before them, and their insn_off (the first field of both kinds) moved.
  template <typename Record>
  static std::vector<uint8_t> shifted(const void *records, uint32_t size, uint32_t count, uint32_t by) {
    if (size < sizeof(Record)) return {};
    std::vector<uint8_t> out(static_cast<size_t>(size) * (count + 1));
    std::memcpy(out.data() + size, records, static_cast<size_t>(size) * count);
    for (size_t i = 1; i <= count; i++) {
      uint32_t offset;
      std::memcpy(&offset, out.data() + i * size, sizeof(offset));
      offset += by;
      std::memcpy(out.data() + i * size, &offset, sizeof(offset));
    }
    return out;
  }

  const bpf_program *entry_;
  PrologueSpec spec_;
  std::string name_;
  std::optional<StageTypes> types_;
  bool inPlace_;
  uint32_t shift_ = 0;
  std::vector<uint8_t> functions_, lines_;
  std::unique_ptr<btf, FreeBtf> generated_;
};

std::string quoted(const std::string &name) { return "\"" + name + "\""; }

// Loads only the entry and what initialised PROG_ARRAYs hold. A PROG_ARRAY of another kind of programs is left out.
std::optional<Failure> choosePrograms(OpenObject &opened, const bpf_program *entry, const Code &code) {
  auto object = opened.object.get();
  auto reach = [&](const bpf_program *program) {
    return code.reach(bpf_program__section_name(program), bpf_program__name(program));
  };
  bpf_program *program;
  bpf_object__for_each_program(program, object) bpf_program__set_autoload(program, program == entry);
  for (auto &[name, functions] : code.initialisedSlots()) {
    auto map = bpf_object__find_map_by_name(object, name.c_str());
    if (!map || bpf_map__type(map) != BPF_MAP_TYPE_PROG_ARRAY) continue;
    bool ours = true;
    for (auto &function : functions) {
      auto inner = bpf_object__find_program_by_name(object, function.c_str());
      ours &= inner && bpf_program__type(inner) == BPF_PROG_TYPE_SCHED_CLS;
    }
    if (!ours) {
      bpf_map__set_autocreate(map, false);
      continue;
    }
    for (auto &function : functions) {
      auto inner = bpf_object__find_program_by_name(object, function.c_str());
      if (inner == entry)
        return refused("function " + quoted(function) + " stands in the object's own PROG_ARRAY " + quoted(name) +
                       ", so it is reached by tail calls and cannot be an entry");
      bpf_program__set_autoload(inner, true);
    }
  }
  bpf_object__for_each_program(program, object)
    if (bpf_program__autoload(program) && reach(program).externs.contains("bpf_throw"))
      return refused("function " + quoted(bpf_program__name(program)) +
                     " calls bpf_throw, which would unwind the whole chain with verdict 0");
  return std::nullopt;
}

// An agent's one object brings the tables of all its probes along, some of them for a million entries: those that no program
// to be loaded names are not created. Where names do not tell (a section's symbol has none), all are.
void chooseMaps(bpf_object *object, const Code &code) {
  std::set<std::string_view> named = code.initialInner();
  bpf_program *program;
  bpf_object__for_each_program(program, object) {
    if (!bpf_program__autoload(program)) continue;
    auto reach = code.reach(bpf_program__section_name(program), bpf_program__name(program));
    named.insert(reach.maps.begin(), reach.maps.end());
  }
  if (named.contains("")) return;
  bpf_map *map;
  bpf_object__for_each_map(map, object)
    if (!bpf_map__is_internal(map) && !named.contains(bpf_map__name(map))) bpf_map__set_autocreate(map, false);
}

std::optional<Failure> setParameters(bpf_object *object, const StageEntry &entry) {
  for (auto &parameter : entry.parameters) {
    int error = setParameter(object, parameter.name, parameter.bytes);
    if (error == -ENOENT) return refused("the object has no parameter " + quoted(parameter.name));
    if (error)
      return refused("parameter " + quoted(parameter.name) + " has another size than the " +
                     std::to_string(parameter.bytes.size()) + " bytes given");
  }
  return std::nullopt;
}

std::optional<Failure> reuseMaps(bpf_object *object, const std::vector<ReusedMap> &reuse) {
  for (auto &wanted : reuse) {
    bpf_map *map, *found = nullptr;
    bpf_object__for_each_map(map, object) if (mapName(map) == wanted.name) found = map;
    if (!found) return refused("the object has no map " + quoted(wanted.name) + " to use another one for");
    bpf_map_info info{};
    uint32_t size = sizeof(info);
    if (bpf_map_get_info_by_fd(wanted.fd, &info, &size)) return failedDoing("map " + quoted(wanted.name));
    // 0 entries: the kernel or libbpf chose the number (perf event arrays).
    bool entries = bpf_map__max_entries(found) == 0 || info.max_entries == bpf_map__max_entries(found);
    if (info.type != bpf_map__type(found) || info.key_size != bpf_map__key_size(found) ||
        info.value_size != bpf_map__value_size(found) || !entries)
      return refused("map " + quoted(wanted.name) + " cannot be used again: its type or sizes differ");
    if (bpf_map__reuse_fd(found, wanted.fd)) return failedDoing("map " + quoted(wanted.name));
  }
  return std::nullopt;
}

// The load fails where the verifier finds that code reaches one of them all the same: libbpf puts a call into its place
// that no kernel knows.
std::optional<Failure> leaveOutMaps(bpf_object *object, const std::vector<std::string> &names) {
  for (auto &name : names) {
    bpf_map *map, *found = nullptr;
    bpf_object__for_each_map(map, object) if (mapName(map) == name) found = map;
    if (!found) return refused("the object has no map " + quoted(name) + " to leave out");
    if (bpf_map__set_autocreate(found, false)) return failedDoing("map " + quoted(name));
  }
  return std::nullopt;
}

bool needsEntries(const bpf_map *map) {
  switch (bpf_map__type(map)) {
    case BPF_MAP_TYPE_PERF_EVENT_ARRAY:  // libbpf chooses
    case BPF_MAP_TYPE_CGROUP_STORAGE:
    case BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE:
    case BPF_MAP_TYPE_SK_STORAGE:
    case BPF_MAP_TYPE_INODE_STORAGE:
    case BPF_MAP_TYPE_TASK_STORAGE:
    case BPF_MAP_TYPE_CGRP_STORAGE:
      return false;
    default:
      return true;
  }
}

// Some projects leave a map's size to a loader of their own, which sets it before it loads. A map that is used again has the
// size of the one that it stands for.
std::optional<Failure> requireSizes(bpf_object *object) {
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    if (!bpf_map__autocreate(map) || bpf_map__is_internal(map) || bpf_map__max_entries(map) > 0) continue;
    auto type = libbpf_bpf_map_type_str(bpf_map__type(map));
    if (needsEntries(map))
      return refused("the object leaves the size of map " + quoted(mapName(map)) + " (" + (type ? type : "unknown") +
                     ") to a loader of its own: its max_entries is 0, which the kernel refuses; compile it with a size");
  }
  return std::nullopt;
}

// What the verifier came upon that this kernel does not have. A subprogram's place in the program is not known here: then it is
// one of those named.
std::string missingIn(const std::string &log, const std::string &function, uint32_t shift) {
  auto instruction = unresolvedInstruction(log);
  if (!instruction) return {};
  std::vector<std::string> subjects;
  for (auto &one : unresolvedRelocations()) {
    if (one.function == function && one.instruction == *instruction - static_cast<int>(shift)) return one.subject;
    if (std::ranges::find(subjects, one.subject) == subjects.end()) subjects.push_back(one.subject);
  }
  std::string out;
  for (size_t i = 0; i < subjects.size() && i < 3; i++) out += (i ? " or " : "") + subjects[i];
  return out;
}

// Whole lines of the beginning and the end, and how much was between them.
std::string shortened(std::string_view log) {
  if (log.size() <= kLogHead + kLogTail) return std::string(log);
  auto head = log.substr(0, log.rfind('\n', kLogHead) + 1);
  auto line = log.find('\n', log.size() - kLogTail);
  auto tail = log.substr(line == log.npos ? log.size() - kLogTail : line + 1);
  auto left = std::to_string(log.size() - head.size() - tail.size());
  return std::string(head) + "[" + left + " bytes of the log are left out here]\n" + std::string(tail);
}

Failure explain(int error, const StageSpec &spec, std::string_view verifierLog, uint32_t shift) {
  std::string said = shortened(takeLog()), log = shortened(verifierLog);
  std::string where = "program " + quoted(spec.name) + ", function " + quoted(spec.entries[0].function) + ": ";
  std::string reason = tellingLine(log, missingIn(log, spec.entries[0].function, shift));
  if (!reason.empty()) return {error, where + "the verifier refused it: " + reason, log};
  if (!said.empty()) return {error, where + firstLine(said), said};
  return {error, where + strerror(error), {}};
}

// What the object says of its maps before anything of that is changed.
struct Declared {
  std::string name;
  bool pinned;
};
using Declarations = std::map<const bpf_map *, Declared>;

// Where maps are pinned is the caller's choice, never the object's: pods would share them. Names are taken now, because a map that
// is used again takes the name that the kernel knows it by.
Declarations forgetPins(bpf_object *object) {
  Declarations declared;
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    declared[map] = {mapName(map), bpf_map__pin_path(map) && !bpf_map__is_internal(map)};
    bpf_map__set_pin_path(map, nullptr);
  }
  return declared;
}

// Descriptors of what was loaded, for the caller. Maps that none of the loaded programs uses live no longer than the object's own,
// which go after this.
Result<LoadedStage> collect(bpf_object *object, const bpf_program *entry, const Declarations &declared) {
  std::set<uint32_t> used;
  LoadedStage stage;
  bpf_program *program;
  bpf_object__for_each_program(program, object)
    if (bpf_program__fd(program) >= 0) {
      auto info = programInfo(bpf_program__fd(program));
      if (!info) return info.failure();
      used.insert(info->mapIds.begin(), info->mapIds.end());
      if (program == entry) stage.programId = info->id;
    }
  stage.program = duplicate(bpf_program__fd(entry));
  if (!stage.program) return failedErrno();
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__fd(map) < 0 || !bpf_map__autocreate(map)) continue;
    UniqueFd fd = duplicate(bpf_map__fd(map));
    bpf_map_info facts{};
    uint32_t size = sizeof(facts);
    if (!fd || bpf_map_get_info_by_fd(fd.get(), &facts, &size)) return failedErrno();
    if (!used.contains(facts.id)) continue;
    auto type = libbpf_bpf_map_type_str(bpf_map__type(map));
    auto &as = declared.at(map);
    stage.maps.push_back({as.name, type ? type : "unknown", std::move(fd), facts.id, as.pinned,
                          bpf_map__is_internal(map)});
  }
  return stage;
}

// How to load. `logLevel` of the verifier; 0: without a log first, which is faster, and with one where that fails.
// `inPlace`: the entry may belong to the stage; false afterwards where it did not.
struct Manner {
  uint32_t logLevel = 0;
  bool inPlace = false;
};

Result<LoadedStage> load(const StageSpec &spec, Manner &manner) {
  bool mayBePlaced = std::exchange(manner.inPlace, false) && !spec.trace;
  auto &wanted = spec.entries[0];
  auto opened = openObject(spec.object, spec.name);
  if (!opened) return opened.failure();
  auto object = opened->object.get();
  Code code(opened->elf);

  auto entry = bpf_object__find_program_by_name(object, wanted.function.c_str());
  if (!entry) return refused("the object has no program function " + quoted(wanted.function));
  if (bpf_program__type(entry) != BPF_PROG_TYPE_SCHED_CLS) {
    auto type = libbpf_bpf_prog_type_str(bpf_program__type(entry));
    return refused("function " + quoted(wanted.function) + " is of type " + (type ? type : "unknown") + " (section " +
                   quoted(bpf_program__section_name(entry)) + "), and a chain takes only TC programs");
  }
  if (auto failure = choosePrograms(*opened, entry, code)) return *failure;
  chooseMaps(object, code);
  if (auto failure = setParameters(object, wanted)) return *failure;
  auto declared = forgetPins(object);
  if (auto failure = leaveOutMaps(object, spec.without)) return *failure;
  if (auto failure = reuseMaps(object, spec.reuse)) return *failure;
  if (auto failure = requireSizes(object)) return *failure;

  std::string name = identifier(spec.name);
  std::optional<StageTypes> types;
  if (auto own = bpf_object__btf(object)) {
    types.emplace();
    if (!addStageTypes(own, name, identifier(wanted.function), *types)) return failed(ENOMEM, "adding types to the BTF");
  }

  std::unique_ptr<char, void (*)(void *)> log(static_cast<char *>(malloc(kLogSize)), free);
  if (!log) return failed(ENOMEM);
  log.get()[0] = '\0';
  bpf_program *program;
  bpf_object__for_each_program(program, object) {
    bpf_program__set_log_buf(program, log.get(), kLogSize);
    bpf_program__set_log_level(program, manner.logLevel);
  }

  Head head(entry,
            {spec.position, spec.length, spec.proceedOn, spec.closed, spec.countHead, spec.chain, spec.counters,
             spec.endings, spec.name, spec.trace, {}},
            name, types, mayBePlaced);
  int error = loadObject(object, [&](bpf_program *p, bpf_prog_load_opts *options) { return head(p, options); });
  manner.inPlace = head.placed();
  if (error) return explain(-error, spec, {log.get(), strnlen(log.get(), kLogSize)}, head.shift());
  takeLog();
  auto stage = collect(object, entry, declared);
  if (stage) stage->placed = head.placed();
  return stage;
}

}  // namespace

Result<LoadedStage> loadStage(const StageSpec &spec) {
  if (spec.entries.size() != 1) return refused("a stage takes one entry");
  if (spec.position >= spec.length) return refused("a stage's position lies beyond its chain's end");
  if (spec.trace && (spec.trace->sample < 1 || spec.trace->bytes < 1 || spec.trace->tag > 255))
    return refused("a trace takes a sample and bytes of 1 or more, and a tag up to 255");
  Manner manner{.inPlace = true};
  auto placed = load(spec, manner);
  if (placed) return placed;
  // What the verifier says of the function is what is told: there the instructions are the object's own.
  auto stage = manner.inPlace ? load(spec, manner = {}) : std::move(placed);
  if (stage || stage.failure().error != ENOSPC) return stage;
  // The log had no room for all that the verifier went through, and that is what the kernel says then, not why it refused the
  // program. Before Linux 6.4 the log's end is missing as well, which would tell.
  auto brief = load(spec, manner = {.logLevel = kBriefLog});
  if (brief || brief.failure().log.empty()) return brief;
  Failure told = brief.failure(), whole = stage.failure();
  if (whole.log.find("\nprocessed ") != std::string::npos) return Failure{told.error, whole.message, whole.log};
  return Failure{told.error, told.message, whole.log + "[its end, without what the verifier went through]\n" + told.log};
}

}  // namespace remora
