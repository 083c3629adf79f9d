// SPDX-License-Identifier: Apache-2.0
// BTF: the parameters of an object, and the types that a stage's generated code needs.
#pragma once

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <cstdint>
#include <string>
#include <vector>

namespace remora {

// `BtfType` of plugin/kernel/port.ts.
struct Type {
  std::string kind, name;
  uint32_t size = 0;
  bool isSigned = false;
  std::string encoding;  // int: int, bool, char
  struct Value {
    std::string name;
    int64_t value;
  };
  std::vector<Value> values;  // enum
  uint32_t length = 0;        // array
  struct Member {
    std::string name;
    uint32_t bitOffset, bitSize;
  };
  std::vector<Member> members;  // struct, union
  std::vector<Type> inner;      // the array's element, or the members' types in order
};

struct Parameter {
  std::string name;
  Type type;
  std::vector<uint8_t> initial;
  std::vector<std::string> tags;
};

// A typedef, a qualifier or a type tag: one of which stands before another type.
bool isModifier(const btf_type *type);
constexpr int kModifiers = 64;  // more of them in a row are taken for a circle

// The `const volatile` globals of an object's `.rodata` sections, static ones included.
std::vector<Parameter> parametersOf(const bpf_object *object);

// One type, by its id. A section of variables (DATASEC) is a struct of them.
Type describeType(const btf *types, uint32_t id);

// Writes a parameter's bytes into the initial value of its section. 0, -ENOENT (no such parameter), -EINVAL (its size
// differs).
int setParameter(bpf_object *object, const std::string &name, const std::vector<uint8_t> &bytes);

// Declaration tags of the map's variable in `.maps`.
std::vector<std::string> mapTags(const btf *types, const std::string &map);

// The name of the struct that the function's only parameter points to; "" where it is anything else.
std::string contextOf(const btf *types, const std::string &function);

// Where, in the raw BTF, the names of those `pinning` members of map definitions stand whose value libbpf does not know.
std::vector<size_t> unknownPinnings(const btf *types);

// What the generated part of a stage names: a FUNC for the prologue, and a canonical GLOBAL
// `int f(struct __sk_buff *)` for the user's entry.
struct StageTypes {
  int32_t prologue, entry;
  uint32_t file, line;  // strings, for the prologue's line record
};

// Adds those types; false when out of memory or a name is not to BTF's liking.
bool addStageTypes(btf *types, const std::string &prologue, const std::string &entry, StageTypes &out);

// Adds a static `int name(void)`, for a subprogram of which nothing is known. The id, or a negative errno.
int32_t addUnknownFunction(btf *types, const std::string &name);

}  // namespace remora
