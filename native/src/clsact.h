// SPDX-License-Identifier: Apache-2.0
// Programs on the clsact qdisc, for kernels before TCX (Linux 6.6): a direct-action cls_bpf filter under a priority of
// its own. Other people's filters and the qdisc they need stay as they are.
//
// Unlike a TCX link, such a filter belongs to the device: whoever has CAP_NET_ADMIN in its namespace can remove it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fd.h"
#include "place.h"
#include "result.h"

namespace remora {

struct FilterFacts {
  uint32_t priority, handle;
  uint32_t programId;  // 0: it runs no eBPF program
};
struct MadeFilter : FilterFacts {
  bool madeQdisc;  // the device had none
};

// Whether the device has a qdisc that filters hang on, clsact or ingress. ENODEV where there is no such device.
Result<bool> hasQdisc(const HookPlace &place);

// All filters of the hook, in the order in which packets meet them. Empty where there is no qdisc; ENODEV where there is no
// such device. EMSGSIZE where one is too large to be listed (32 KiB), which hides all behind it.
Result<std::vector<FilterFacts>> listFilters(const HookPlace &place);

// The eBPF filter of this priority and handle, whatever else is there. ENODEV where there is no such device.
Result<std::optional<FilterFacts>> findFilter(const HookPlace &place, uint32_t priority, uint32_t handle);

// Before all filters that are there, where there is room, else under the first free priority. Makes the clsact qdisc where the
// device has none. EBUSY where somebody has taken all priorities or takes each that is tried.
Result<MadeFilter> attachFilter(const HookPlace &place, int program);

// Puts the program in the place of `expected`, in one step: no packet meets neither or both. ENOENT where the filter is not
// there or runs another program.
int replaceFilter(const HookPlace &place, const FilterFacts &filter, int program);

// Removes the filter if it runs `filter.programId`. ENOENT where there is none, or another's.
int detachFilter(const HookPlace &place, const FilterFacts &filter);

// Removes the clsact qdisc if no filter is left on it, in either direction: true where it is gone.
Result<bool> removeQdisc(const HookPlace &place);

}  // namespace remora
