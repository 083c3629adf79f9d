// SPDX-License-Identifier: Apache-2.0
// Opening an object with libbpf: from memory, with every section that libbpf does not know taken as SCHED_CLS, and
// with what libbpf would print captured instead.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "elffile.h"

namespace remora {

struct CloseObject {
  void operator()(bpf_object *object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, CloseObject>;

struct OpenObject {
  Elf elf;
  Object object;
};

// `name` becomes the prefix of the names of internal maps (`name.rodata`); other characters than [A-Za-z0-9_] are
// replaced.
Result<OpenObject> openObject(Bytes file, const std::string &name);

// Called for each program of the types that stand in a chain, just before it is loaded; by the thread that loads.
using PrepareLoad = std::function<int(bpf_program *, bpf_prog_load_opts *)>;

// bpf_object__load with `prepare` in place for its duration.
int loadObject(bpf_object *object, PrepareLoad prepare);

// From now on libbpf's words go to `takeLog` and not to stderr, in the whole process.
void captureLog();

// A type or field that a program refers to (CO-RE) and this kernel does not have: `struct sk_buff.field`. What refers to it
// fails only if the verifier gets there.
struct Unresolved {
  std::string function;
  int instruction;  // counted from the function's first
  std::string subject;
};

// Those of this thread's last loadObject.
const std::vector<Unresolved> &unresolvedRelocations();

// What libbpf said (warnings and information) since the last call, on this thread.
std::string takeLog();

// The first of those lines, as part of a message.
std::string firstLine(const std::string &log);

// The name without the object's prefix for internal maps: `.rodata`.
std::string mapName(const bpf_map *map);

}  // namespace remora
