// SPDX-License-Identifier: Apache-2.0
#include "clsact.h"

#include <bpf/libbpf.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "netns.h"

namespace remora {
namespace {

// Where nothing hangs on the hook yet: room before it and behind it.
constexpr uint32_t kFirstPriority = 512;
constexpr uint32_t kLastPriority = 0xffff;
// One priority is ours alone, so one filter of it is enough.
constexpr uint32_t kHandle = 1;
constexpr int kTries = 16;

bpf_tc_hook hookOf(const HookPlace &place) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(place.ifindex),
              .attach_point = place.ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS);
  return hook;
}

using Listed = std::vector<FilterFacts>;

// Asks the kernel for a list of qdiscs or filters.
int dump(uint16_t type, const HookPlace &place, uint32_t parent, const std::function<void(const nlmsghdr &)> &each) {
  struct {
    nlmsghdr header;
    tcmsg subject;
  } request{};
  request.header = {.nlmsg_len = sizeof(request), .nlmsg_type = type};
  request.subject.tcm_family = AF_UNSPEC;
  request.subject.tcm_ifindex = static_cast<int>(place.ifindex);
  request.subject.tcm_parent = parent;
  return remora::dump(request.header, each);
}

// The attribute of this kind among those that begin at `first`.
const rtattr *attribute(const rtattr *first, size_t length, unsigned short kind) {
  int left = static_cast<int>(length);
  for (auto at = first; RTA_OK(at, left); at = RTA_NEXT(at, left))
    if ((at->rta_type & NLA_TYPE_MASK) == kind) return at;
  return nullptr;
}
const rtattr *attribute(const nlmsghdr &message, unsigned short kind) {
  auto body = static_cast<const char *>(NLMSG_DATA(&message)) + NLMSG_ALIGN(sizeof(tcmsg));
  return attribute(reinterpret_cast<const rtattr *>(body), NLMSG_PAYLOAD(&message, sizeof(tcmsg)), kind);
}

bool isKind(const nlmsghdr &message, const char *kind) {
  auto found = attribute(message, TCA_KIND);
  return found && !strncmp(static_cast<const char *>(RTA_DATA(found)), kind, RTA_PAYLOAD(found));
}

// Every filter of the hook. The kernel lists a priority also without its filters (handle 0).
Result<Listed> listAll(const HookPlace &place) {
  Listed filters;
  uint32_t parent = TC_H_MAKE(TC_H_CLSACT, place.ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
  int error = dump(RTM_GETTFILTER, place, parent, [&](auto &message) {
    auto filter = static_cast<const tcmsg *>(NLMSG_DATA(&message));
    uint32_t program = 0;
    if (auto options = attribute(message, TCA_OPTIONS))
      if (auto id = attribute(static_cast<const rtattr *>(RTA_DATA(options)), RTA_PAYLOAD(options), TCA_BPF_ID);
          id && RTA_PAYLOAD(id) == sizeof(program) && isKind(message, "bpf"))
        std::memcpy(&program, RTA_DATA(id), sizeof(program));
    filters.push_back({filter->tcm_info >> 16, filter->tcm_handle, program});
  });
  if (error == EMSGSIZE) return failed(error, "one of them is too large for the kernel to list, and hides those behind it");
  // EINVAL and ENOENT: no such qdisc.
  if (error && error != EINVAL && error != ENOENT) return failed(error);
  return filters;
}

// Whether the device has a qdisc in clsact's place, of one kind if that is asked for.
Result<bool> findQdisc(const HookPlace &place, const char *kind) {
  bool found = false;
  int error = dump(RTM_GETQDISC, place, 0, [&](auto &message) {
    auto qdisc = static_cast<const tcmsg *>(NLMSG_DATA(&message));
    if (static_cast<uint32_t>(qdisc->tcm_ifindex) != place.ifindex || qdisc->tcm_parent != TC_H_CLSACT) return;
    found |= !kind || isKind(message, kind);
  });
  if (error) return failed(error);
  return found;
}

// A priority that nobody has, before all others if there is room. 0: none is left.
uint32_t freePriority(const Listed &filters) {
  uint32_t lowest = kFirstPriority + 1;
  std::vector<bool> taken(kLastPriority + 1);
  for (auto &filter : filters) {
    lowest = std::min(lowest, filter.priority);
    taken.at(filter.priority) = true;  // 16 bits of tcm_info
  }
  if (lowest > 1) return lowest - 1;
  auto free = std::find(taken.begin() + 1, taken.end(), false);
  return free == taken.end() ? 0 : static_cast<uint32_t>(free - taken.begin());
}

// The program under this priority and handle. ENOENT where there is none.
Result<uint32_t> query(const HookPlace &place, uint32_t priority, uint32_t handle) {
  auto hook = hookOf(place);
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = handle, .priority = priority);
  int error = bpf_tc_query(&hook, &options);
  // EINVAL: there is no such qdisc either.
  if (error == -EINVAL) return failed(ENOENT);
  if (error) return failed(-error);
  return options.prog_id;
}

int detach(const HookPlace &place, uint32_t priority, uint32_t handle) {
  auto hook = hookOf(place);
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = handle, .priority = priority);
  return bpf_tc_detach(&hook, &options);
}

Result<MadeFilter> attach(const HookPlace &place, int program) {
  auto hook = hookOf(place);
  int error = bpf_tc_hook_create(&hook);
  if (error == -ENOENT) return failed(EOPNOTSUPP, "this kernel has no clsact qdisc (CONFIG_NET_SCH_INGRESS)");
  if (error && error != -EEXIST) return failedDoing("making the clsact qdisc", -error);
  bool madeQdisc = !error;
  if (!madeQdisc && !place.ingress) {
    // It takes filters for egress too, and runs them on ingress.
    auto wrong = findQdisc(place, "ingress");
    if (!wrong) return wrong.failure();
    if (*wrong) return failed(EOPNOTSUPP, "the device has an ingress qdisc in clsact's place, which has no egress side");
  }
  for (int attempt = 0; attempt < kTries; attempt++) {
    auto before = listAll(place);
    if (!before) return before.failure();
    uint32_t priority = freePriority(*before);
    if (!priority) break;
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .handle = kHandle, .priority = priority);
    error = bpf_tc_attach(&hook, &options);
    if (error == -EEXIST) continue;
    if (error == -ENOENT) return failed(EOPNOTSUPP, "this kernel has no BPF classifier (CONFIG_NET_CLS_BPF)");
    if (error) return failedDoing("adding the filter", -error);
    // Somebody may have taken the same priority meanwhile, and would remove ours with it.
    auto after = listAll(place);
    if (!after) {
      detach(place, priority, kHandle);
      return after.failure();
    }
    if (std::none_of(after->begin(), after->end(), [&](auto &filter) {
          return filter.priority == priority && filter.handle != 0 && filter.handle != kHandle;
        }))
      return MadeFilter{{priority, kHandle, options.prog_id}, madeQdisc};
    detach(place, priority, kHandle);
  }
  return failed(EBUSY, "no priority of the hook is free");
}

// Makes sure the filter runs the program it should, then does `change`.
int withFilter(const HookPlace &place, const FilterFacts &filter, const std::function<int()> &change) {
  auto done = visit<int>(place.netns, [&]() -> Result<int> {
    auto found = query(place, filter.priority, filter.handle);
    if (!found) return found.failure();
    if (*found != filter.programId) return failed(ENOENT);
    return change();
  });
  return done ? *done : -done.failure().error;
}

}  // namespace

Result<bool> hasQdisc(const HookPlace &place) {
  return visit<bool>(place.netns, [&]() -> Result<bool> {
    // A list for a device that is not there is empty, as for one that has none.
    if (auto name = nameOfDevice(place.ifindex); !name) return name.failure();
    return findQdisc(place, nullptr);
  });
}

Result<std::vector<FilterFacts>> listFilters(const HookPlace &place) {
  return visit<Listed>(place.netns, [&]() -> Result<Listed> {
    if (auto name = nameOfDevice(place.ifindex); !name) return name.failure();
    auto filters = listAll(place);
    if (filters) std::erase_if(*filters, [](auto &one) { return one.handle == 0; });
    return filters;
  });
}

Result<std::optional<FilterFacts>> findFilter(const HookPlace &place, uint32_t priority, uint32_t handle) {
  using Found = std::optional<FilterFacts>;
  return visit<Found>(place.netns, [&]() -> Result<Found> {
    if (auto name = nameOfDevice(place.ifindex); !name) return name.failure();
    auto program = query(place, priority, handle);
    if (program) return Found{{priority, handle, *program}};
    if (program.failure().error == ENOENT) return Found{};
    return program.failure();
  });
}

Result<MadeFilter> attachFilter(const HookPlace &place, int program) {
  return visit<MadeFilter>(place.netns, [&] { return attach(place, program); });
}

int replaceFilter(const HookPlace &place, const FilterFacts &filter, int program) {
  return withFilter(place, filter, [&] {
    auto hook = hookOf(place);
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .flags = BPF_TC_F_REPLACE, .handle = filter.handle,
                .priority = filter.priority);
    return bpf_tc_attach(&hook, &options);
  });
}

int detachFilter(const HookPlace &place, const FilterFacts &filter) {
  return withFilter(place, filter, [&] { return detach(place, filter.priority, filter.handle); });
}

Result<bool> removeQdisc(const HookPlace &place) {
  return visit<bool>(place.netns, [&]() -> Result<bool> {
    for (bool ingress : {true, false}) {
      auto filters = listAll({place.netns, place.ifindex, ingress});
      if (!filters && filters.failure().error == EMSGSIZE) return false;  // there is one at least
      if (!filters) return filters.failure();
      if (!filters->empty()) return false;
    }
    auto hook = hookOf(place);
    hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
    int error = bpf_tc_hook_destroy(&hook);
    if (error && error != -ENOENT && error != -EINVAL) return failed(-error);
    return true;
  });
}

}  // namespace remora
