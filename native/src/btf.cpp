// SPDX-License-Identifier: Apache-2.0
#include "btf.h"

#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace remora {
namespace {

// Bounds for types of hostile objects: how deep, and how many nodes in all.
constexpr int kDepth = 16;
constexpr int kNodes = 4096;

constexpr uint32_t kPinByName = 1;  // LIBBPF_PIN_BY_NAME, which libbpf declares for programs alone

std::string textAt(const btf *types, uint32_t offset) {
  auto text = btf__name_by_offset(types, offset);
  return text ? text : "";
}

std::string nameOf(const btf *types, const btf_type *type) { return textAt(types, type->name_off); }

// The type behind typedefs and qualifiers, or none; `id` becomes its own. `alias` gets the outermost typedef's name.
const btf_type *resolve(const btf *types, uint32_t &id, std::string *alias = nullptr) {
  auto type = btf__type_by_id(types, id);
  for (int i = 0; type && i < kModifiers && isModifier(type); i++) {
    if (alias && alias->empty() && btf_is_typedef(type)) *alias = nameOf(types, type);
    id = type->type;
    type = btf__type_by_id(types, id);
  }
  return type;
}

const btf_type *skipModifiers(const btf *types, uint32_t id) { return resolve(types, id); }

uint32_t sizeOf(const btf *types, uint32_t id) {
  auto size = btf__resolve_size(types, id);
  return size < 0 || size > INT32_MAX ? 0 : static_cast<uint32_t>(size);
}

Type convert(const btf *types, uint32_t id, int depth, int &nodes);

void convertInt(const btf *types, const btf_type *type, Type &out) {
  auto encoding = btf_int_encoding(type);
  out.kind = "int";
  out.size = type->size;
  out.isSigned = encoding & BTF_INT_SIGNED;
  // clang writes BTF_INT_CHAR for no type; `char` is known by its name.
  bool isChar = (encoding & BTF_INT_CHAR) || (type->size == 1 && nameOf(types, type) == "char");
  out.encoding = (encoding & BTF_INT_BOOL) ? "bool" : isChar ? "char" : "int";
}

void convertEnum(const btf *types, const btf_type *type, Type &out) {
  out.kind = "enum";
  out.size = type->size;
  out.isSigned = btf_kflag(type);
  for (int i = 0; i < btf_vlen(type); i++) {
    if (btf_is_enum64(type)) {
      auto value = btf_enum64(type) + i;
      out.values.push_back({textAt(types, value->name_off), static_cast<int64_t>(btf_enum64_value(value))});
      continue;
    }
    auto &value = btf_enum(type)[i];
    out.values.push_back({textAt(types, value.name_off), static_cast<int64_t>(value.val)});
    // Before LLVM 15 nothing says whether an enum is signed, so one with a negative number is taken as one.
    out.isSigned |= value.val < 0;
  }
}

void convertMembers(const btf *types, const btf_type *type, int depth, int &nodes, Type &out) {
  out.kind = btf_is_struct(type) ? "struct" : "union";
  out.size = type->size;
  for (int i = 0; i < btf_vlen(type); i++) {
    auto &member = btf_members(type)[i];
    Type inner = convert(types, member.type, depth + 1, nodes);
    uint32_t bits = btf_member_bitfield_size(type, i);
    out.members.push_back({textAt(types, member.name_off), btf_member_bit_offset(type, i), bits ? bits : inner.size * 8});
    out.inner.push_back(std::move(inner));
  }
}

void convertSection(const btf *types, const btf_type *type, int depth, int &nodes, Type &out) {
  out.kind = "struct";
  out.size = type->size;
  auto info = btf_var_secinfos(type);
  for (int i = 0; i < btf_vlen(type); i++) {
    auto variable = btf__type_by_id(types, info[i].type);
    if (!variable || !btf_is_var(variable)) continue;
    out.members.push_back({nameOf(types, variable), info[i].offset * 8, info[i].size * 8});
    out.inner.push_back(convert(types, variable->type, depth + 1, nodes));
  }
}

Type convert(const btf *types, uint32_t id, int depth, int &nodes) {
  Type out;
  out.kind = "other";
  std::string alias;
  auto type = resolve(types, id, &alias);
  if (!type || depth > kDepth || ++nodes > kNodes) return out;

  if (btf_is_int(type)) {
    convertInt(types, type, out);
  } else if (btf_is_any_enum(type)) {
    convertEnum(types, type, out);
  } else if (btf_is_array(type)) {
    out.kind = "array";
    out.size = sizeOf(types, id);
    out.length = btf_array(type)->nelems;
    out.inner.push_back(convert(types, btf_array(type)->type, depth + 1, nodes));
  } else if (btf_is_composite(type)) {
    convertMembers(types, type, depth, nodes, out);
  } else if (btf_is_datasec(type)) {
    convertSection(types, type, depth, nodes, out);
  } else if (btf_is_float(type)) {
    out.kind = "float";
    out.size = type->size;
  } else {
    out.size = sizeOf(types, id);
  }
  out.name = !alias.empty() ? alias : btf_is_array(type) ? "" : nameOf(types, type);
  return out;
}

// A qualifier of an array stands at its element.
bool isConstVolatile(const btf *types, uint32_t id) {
  bool isConst = false, isVolatile = false;
  for (int i = 0; i < kModifiers; i++) {
    auto type = btf__type_by_id(types, id);
    if (!type) break;
    isConst |= btf_is_const(type);
    isVolatile |= btf_is_volatile(type);
    if (btf_is_array(type))
      id = btf_array(type)->type;
    else if (isModifier(type))
      id = type->type;
    else
      break;
  }
  return isConst && isVolatile;
}

std::vector<std::string> tagsOf(const btf *types, uint32_t variable) {
  std::vector<std::string> tags;
  uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    auto type = btf__type_by_id(types, id);
    if (btf_is_decl_tag(type) && type->type == variable && btf_decl_tag(type)->component_idx == -1)
      tags.push_back(nameOf(types, type));
  }
  return tags;
}

bool startsWith(const std::string &text, const char *prefix) { return text.rfind(prefix, 0) == 0; }

// Calls visit(variable's type id, name, its bytes in the section's initial value) for each parameter, until it
// returns false.
template <typename Visit>
void eachParameter(const bpf_object *object, Visit visit) {
  auto types = bpf_object__btf(object);
  if (!types) return;
  uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    auto section = btf__type_by_id(types, id);
    if (!btf_is_datasec(section)) continue;
    std::string name = nameOf(types, section);
    if (name != ".rodata" && !startsWith(name, ".rodata.")) continue;

    uint8_t *initial = nullptr;
    size_t size = 0;
    bpf_map *map;
    bpf_object__for_each_map(map, object) {
      std::string full = bpf_map__name(map);
      auto dot = full.find('.');
      if (bpf_map__is_internal(map) && dot != std::string::npos && full.substr(dot) == name)
        initial = static_cast<uint8_t *>(bpf_map__initial_value(map, &size));
    }
    if (!initial) continue;

    auto info = btf_var_secinfos(section);
    for (int i = 0; i < btf_vlen(section); i++) {
      auto variable = btf__type_by_id(types, info[i].type);
      if (!variable || !btf_is_var(variable) || !isConstVolatile(types, variable->type)) continue;
      if (info[i].offset > size || size - info[i].offset < info[i].size) continue;
      if (!visit(info[i].type, nameOf(types, variable), initial + info[i].offset, info[i].size)) return;
    }
  }
}

}  // namespace

bool isModifier(const btf_type *type) { return btf_is_mod(type) || btf_is_typedef(type) || btf_is_type_tag(type); }

std::vector<Parameter> parametersOf(const bpf_object *object) {
  std::vector<Parameter> parameters;
  auto types = bpf_object__btf(object);
  int nodes = 0;
  eachParameter(object, [&](uint32_t id, const std::string &name, uint8_t *bytes, uint32_t size) {
    parameters.push_back({name, convert(types, btf__type_by_id(types, id)->type, 0, nodes),
                          std::vector<uint8_t>(bytes, bytes + size), tagsOf(types, id)});
    return true;
  });
  return parameters;
}

Type describeType(const btf *types, uint32_t id) {
  int nodes = 0;
  return convert(types, id, 0, nodes);
}

int setParameter(bpf_object *object, const std::string &name, const std::vector<uint8_t> &value) {
  int result = -ENOENT;
  eachParameter(object, [&](uint32_t, const std::string &candidate, uint8_t *bytes, uint32_t size) {
    if (candidate != name) return true;
    result = -EINVAL;
    if (size == value.size()) {
      std::copy(value.begin(), value.end(), bytes);
      result = 0;
    }
    return false;
  });
  return result;
}

std::vector<std::string> mapTags(const btf *types, const std::string &map) {
  uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    auto section = btf__type_by_id(types, id);
    if (!btf_is_datasec(section) || nameOf(types, section) != ".maps") continue;
    auto info = btf_var_secinfos(section);
    for (int i = 0; i < btf_vlen(section); i++) {
      auto variable = btf__type_by_id(types, info[i].type);
      if (variable && btf_is_var(variable) && nameOf(types, variable) == map) return tagsOf(types, info[i].type);
    }
  }
  return {};
}

std::string contextOf(const btf *types, const std::string &function) {
  int32_t id = btf__find_by_name_kind(types, function.c_str(), BTF_KIND_FUNC);
  auto prototype = id > 0 ? btf__type_by_id(types, btf__type_by_id(types, id)->type) : nullptr;
  if (!prototype || !btf_is_func_proto(prototype) || btf_vlen(prototype) != 1) return {};
  auto pointer = skipModifiers(types, btf_params(prototype)[0].type);
  auto target = pointer && btf_is_ptr(pointer) ? skipModifiers(types, pointer->type) : nullptr;
  return target && (btf_is_struct(target) || btf_is_fwd(target)) ? nameOf(types, target) : "";
}

std::vector<size_t> unknownPinnings(const btf *types) {
  std::vector<size_t> out;
  uint32_t size;
  auto raw = static_cast<const uint8_t *>(btf__raw_data(types, &size));
  int32_t id = btf__find_by_name_kind(types, ".maps", BTF_KIND_DATASEC);
  if (!raw || id <= 0) return out;
  auto section = btf__type_by_id(types, static_cast<uint32_t>(id));
  for (int i = 0; i < btf_vlen(section); i++) {
    auto variable = btf__type_by_id(types, btf_var_secinfos(section)[i].type);
    auto definition = variable && btf_is_var(variable) ? skipModifiers(types, variable->type) : nullptr;
    if (!definition || !btf_is_struct(definition)) continue;
    for (int j = 0; j < btf_vlen(definition); j++) {
      auto &member = btf_members(definition)[j];
      auto pointer = skipModifiers(types, member.type);
      auto array = pointer && btf_is_ptr(pointer) ? btf__type_by_id(types, pointer->type) : nullptr;
      if (textAt(types, member.name_off) != "pinning" || !array || !btf_is_array(array)) continue;
      if (btf_array(array)->nelems > kPinByName)
        out.push_back(reinterpret_cast<const uint8_t *>(&member.name_off) - raw);
    }
  }
  return out;
}

bool addStageTypes(btf *types, const std::string &prologue, const std::string &entry, StageTypes &out) {
  int context = btf__add_struct(types, "__sk_buff", sizeof(__sk_buff));
  int integer = btf__add_int(types, "int", 4, BTF_INT_SIGNED);
  int pointer = btf__add_ptr(types, context);
  int prototype = btf__add_func_proto(types, integer);
  if (context < 0 || pointer < 0 || integer < 0 || prototype < 0) return false;
  if (btf__add_func_param(types, "ctx", pointer) < 0) return false;
  out.prologue = btf__add_func(types, prologue.c_str(), BTF_FUNC_GLOBAL, prototype);
  out.entry = btf__add_func(types, entry.c_str(), BTF_FUNC_GLOBAL, prototype);
  int file = btf__add_str(types, "remora");
  int line = btf__add_str(types, "the chain's prologue");
  if (out.prologue < 0 || out.entry < 0 || file < 0 || line < 0) return false;
  out.file = static_cast<uint32_t>(file);
  out.line = static_cast<uint32_t>(line);
  return true;
}

int32_t addUnknownFunction(btf *types, const std::string &name) {
  int integer = btf__add_int(types, "int", 4, BTF_INT_SIGNED);
  int prototype = integer < 0 ? integer : btf__add_func_proto(types, integer);
  return prototype < 0 ? prototype : btf__add_func(types, name.c_str(), BTF_FUNC_STATIC, prototype);
}

}  // namespace remora
