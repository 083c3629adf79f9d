// SPDX-License-Identifier: Apache-2.0
// The host's end of a pod's interface: the device at the other side of its veth pair.
#pragma once

#include <cstdint>
#include <string>

#include "result.h"

namespace remora {

struct PeerFacts {
  uint32_t ifindex;
  std::string name, kind;
};
// kRefused with the reason where the interface is no veth, or its other end is not in the calling thread's namespace. Both
// ends must name each other, by index and by namespace. ENODEV where the interface is not there.
Result<PeerFacts> findPeer(const std::string &netns, const std::string &name);

}  // namespace remora
