// SPDX-License-Identifier: Apache-2.0
#include "tcx.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstring>

#include "netns.h"

namespace remora {

// BPF_MPROG_MAX: so many programs fit on one hook.
constexpr uint32_t kMaxTcx = 64;

namespace {

bpf_attach_type hook(const HookPlace &place) { return place.ingress ? BPF_TCX_INGRESS : BPF_TCX_EGRESS; }

std::string programName(uint32_t id) {
  UniqueFd program(bpf_prog_get_fd_by_id(id));
  if (program.get() < 0) return "";
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_prog_get_info_by_fd(program.get(), &info, &size)) return "";
  return std::string(info.name, strnlen(info.name, sizeof(info.name)));
}

}  // namespace

Result<UniqueFd> attachTcx(const HookPlace &place, int program, bool before) {
  return visit<UniqueFd>(place.netns, [&]() -> Result<UniqueFd> {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = before ? BPF_F_BEFORE : 0u);
    int link = bpf_link_create(program, static_cast<int>(place.ifindex), hook(place), &options);
    if (link < 0) return failed(-link);
    return UniqueFd(link);
  });
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

Result<std::vector<TcxFacts>> listTcx(const HookPlace &place) {
  return visit<std::vector<TcxFacts>>(place.netns, [&]() -> Result<std::vector<TcxFacts>> {
    uint32_t programs[kMaxTcx]{}, links[kMaxTcx]{};
    LIBBPF_OPTS(bpf_prog_query_opts, query);
    query.prog_ids = programs;
    query.link_ids = links;
    query.count = kMaxTcx;
    int error = bpf_prog_query_opts(static_cast<int>(place.ifindex), hook(place), &query);
    std::vector<TcxFacts> list;
    if (error == -ENOENT) return list;  // nobody was ever there
    if (error) return failed(-error);
    for (uint32_t i = 0; i < query.count && i < kMaxTcx; i++)
      list.push_back({programs[i], links[i], programName(programs[i])});
    return list;
  });
}

int updateLink(int link, int program) { return bpf_link_update(link, program, nullptr); }

int detachLink(int link) { return bpf_link_detach(link); }

}  // namespace remora
