// SPDX-License-Identifier: Apache-2.0
#include "tcx.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstring>
#include <functional>
#include <optional>

#include "netns.h"

namespace remora {

// BPF_MPROG_MAX: so many programs fit on one hook.
constexpr uint32_t kMaxTcx = 64;

namespace {

bpf_attach_type hook(bool ingress) { return ingress ? BPF_TCX_INGRESS : BPF_TCX_EGRESS; }

// In the namespace of the path; an empty one is the plugin's own.
std::optional<Failure> doIn(const std::string &netns, const std::function<void()> &work) {
  if (netns.empty()) {
    work();
    return {};
  }
  auto space = openNamespace(netns);
  if (!space) return space.failure();
  int error = inNamespace(space->get(), work);
  if (error) return failedDoing("entering " + netns, error);
  return {};
}

std::string programName(uint32_t id) {
  UniqueFd program(bpf_prog_get_fd_by_id(id));
  if (program.get() < 0) return "";
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_prog_get_info_by_fd(program.get(), &info, &size)) return "";
  return std::string(info.name, strnlen(info.name, sizeof(info.name)));
}

}  // namespace

Result<UniqueFd> attachTcx(int program, const std::string &netns, uint32_t ifindex, bool ingress, bool before) {
  int link = -ENODEV;
  auto failure = doIn(netns, [&] {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = before ? BPF_F_BEFORE : 0u);
    link = bpf_link_create(program, static_cast<int>(ifindex), hook(ingress), &options);
  });
  if (failure) return *failure;
  if (link < 0) return failed(-link);
  return UniqueFd(link);
}

Result<LinkFacts> linkInfo(int link) {
  bpf_link_info info{};
  uint32_t size = sizeof(info);
  if (bpf_link_get_info_by_fd(link, &info, &size)) return failedErrno();
  auto type = libbpf_bpf_link_type_str(static_cast<bpf_link_type>(info.type));
  LinkFacts facts{info.id, info.prog_id, type ? type : "unknown", 0, ""};
  if (info.type == BPF_LINK_TYPE_TCX) {
    facts.ifindex = info.tcx.ifindex;
    facts.direction = info.tcx.attach_type == BPF_TCX_INGRESS ? "ingress" : "egress";
  }
  return facts;
}

Result<std::vector<TcxFacts>> listTcx(const std::string &netns, uint32_t ifindex, bool ingress) {
  uint32_t programs[kMaxTcx]{}, links[kMaxTcx]{};
  uint32_t count = 0;
  int result = -ENODEV;
  auto failure = doIn(netns, [&] {
    LIBBPF_OPTS(bpf_prog_query_opts, query);
    query.prog_ids = programs;
    query.link_ids = links;
    query.count = kMaxTcx;
    result = bpf_prog_query_opts(static_cast<int>(ifindex), hook(ingress), &query);
    count = query.count;
  });
  if (failure) return *failure;
  // ENOENT: nobody was ever there.
  if (result == -ENOENT) return std::vector<TcxFacts>{};
  if (result < 0) return failed(-result);
  std::vector<TcxFacts> list;
  for (uint32_t i = 0; i < count && i < kMaxTcx; i++) list.push_back({programs[i], links[i], programName(programs[i])});
  return list;
}

int updateLink(int link, int program) { return bpf_link_update(link, program, nullptr); }

int detachLink(int link) { return bpf_link_detach(link); }

}  // namespace remora
