// SPDX-License-Identifier: Apache-2.0
#include "tcx.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "netns.h"

namespace remora {

Result<UniqueFd> attachTcx(int program, const std::string &netns, uint32_t ifindex, bool ingress, bool before) {
  int link = -ENODEV;
  auto attach = [&] {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = before ? BPF_F_BEFORE : 0u);
    link = bpf_link_create(program, static_cast<int>(ifindex), ingress ? BPF_TCX_INGRESS : BPF_TCX_EGRESS, &options);
  };
  if (netns.empty()) {
    attach();
  } else {
    auto space = openNamespace(netns);
    if (!space) return space.failure();
    int error = inNamespace(space->get(), attach);
    if (error) return failedDoing("entering " + netns, error);
  }
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

int updateLink(int link, int program) { return bpf_link_update(link, program, nullptr); }

int detachLink(int link) { return bpf_link_detach(link); }

}  // namespace remora
