// SPDX-License-Identifier: Apache-2.0
#include "inspect.h"

#include <algorithm>

#include "code.h"
#include "open.h"

namespace remora {
namespace {

std::string text(const char *name) { return name ? name : "unknown"; }

std::string licenseOf(const Elf &elf) {
  auto section = elf.section("license");
  if (!section) return {};
  return {section->data.begin(), std::find(section->data.begin(), section->data.end(), 0)};
}

// What a program must know of a type to read it rightly: where which member lies, and what it is. Names of members count,
// so that two that change places are told apart; names of types do not.
void write(std::string &out, const Type &type) {
  out += type.kind + std::to_string(type.size) + (type.isSigned ? "s" : "") + std::to_string(type.length) + "{";
  for (size_t i = 0; i < type.inner.size(); i++) {
    if (i < type.members.size()) {
      auto &member = type.members[i];
      out += member.name + "@" + std::to_string(member.bitOffset) + ":" + std::to_string(member.bitSize) + " ";
    }
    write(out, type.inner[i]);
  }
  out += "}";
}

std::string layoutOf(const btf *types, const bpf_map *map) {
  uint32_t key = bpf_map__btf_key_type_id(map), value = bpf_map__btf_value_type_id(map);
  if (!types || bpf_map__is_internal(map) || (key == 0 && value == 0)) return {};
  std::string words;
  for (uint32_t id : {key, value})
    if (id) write(words, describeType(types, id));
    else words += "-";
  uint64_t digest = 0xcbf29ce484222325;  // FNV-1a: tells accidents apart, no attacks
  for (unsigned char c : words) digest = (digest ^ c) * 0x100000001b3;
  char text[17];
  snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(digest));
  return text;
}

}  // namespace

Result<ObjectFacts> inspectObject(Bytes file) {
  auto opened = openObject(file, "remora");
  if (!opened) return opened.failure();
  auto object = opened->object.get();
  Code code(opened->elf);
  auto types = bpf_object__btf(object);

  ObjectFacts facts;
  facts.license = licenseOf(opened->elf);
  facts.btf = types != nullptr;

  std::set<std::string> inner;
  for (auto &[map, functions] : code.initialisedSlots()) inner.insert(functions.begin(), functions.end());

  bpf_program *program;
  std::map<std::string, Reach> reached;
  bpf_object__for_each_program(program, object)
    reached[bpf_program__name(program)] = code.reach(bpf_program__section_name(program), bpf_program__name(program));
  uint32_t innerCalls = 0;
  bool innerResizes = false;
  for (auto &name : inner) {
    innerCalls += reached[name].tailCalls;
    innerResizes |= reached[name].resizes;
  }
  bpf_object__for_each_program(program, object) {
    auto &reach = reached[bpf_program__name(program)];
    // Who makes no tail call of its own never gets to the inner ones.
    bool goesInside = reach.tailCalls > 0;
    facts.programs.push_back({bpf_program__name(program), bpf_program__section_name(program),
                              text(libbpf_bpf_prog_type_str(bpf_program__type(program))),
                              reach.tailCalls + (goesInside ? innerCalls : 0),
                              inner.contains(bpf_program__name(program)), reach.resizes || (goesInside && innerResizes)});
  }
  if (facts.programs.empty()) return refused("the object holds no program");

  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    bool internal = bpf_map__is_internal(map);
    facts.maps.push_back({mapName(map), text(libbpf_bpf_map_type_str(bpf_map__type(map))), bpf_map__key_size(map),
                          bpf_map__value_size(map), bpf_map__max_entries(map), bpf_map__map_flags(map),
                          !internal && bpf_map__pin_path(map) != nullptr, internal,
                          types ? mapTags(types, bpf_map__name(map)) : std::vector<std::string>{},
                          layoutOf(types, map)});
  }
  if (types) facts.parameters = parametersOf(object);
  return facts;
}

}  // namespace remora
