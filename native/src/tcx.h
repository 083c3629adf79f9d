// SPDX-License-Identifier: Apache-2.0
// TCX links (Linux 6.6): a program on a device's ingress or egress hook, held by a bpf_link that nobody inside the
// namespace can take off.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fd.h"
#include "place.h"
#include "result.h"

namespace remora {

// As the last one on the hook, or before all that are there.
Result<UniqueFd> attachTcx(const HookPlace &place, int program, bool before);

struct LinkFacts {
  uint32_t id, programId;
  std::string type;
  uint32_t ifindex;      // 0: the device is gone
  std::string direction;  // ingress, egress or empty
};
Result<LinkFacts> linkInfo(int link);

struct TcxFacts {
  uint32_t programId;
  uint32_t linkId;   // 0: attached without a link
  std::string name;  // empty where the program went away meanwhile
};
// The programs on a device's hook, in the order in which packets meet them. EINVAL before Linux 6.6.
Result<std::vector<TcxFacts>> listTcx(const HookPlace &place);

// Both return 0 or a negative errno.
int updateLink(int link, int program);
int detachLink(int link);

}  // namespace remora
