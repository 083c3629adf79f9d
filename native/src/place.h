// SPDX-License-Identifier: Apache-2.0
// Where a program is attached: one direction of one device.
#pragma once

#include <cstdint>
#include <string>

namespace remora {

// An empty `netns` is the plugin's own. The kernel looks a device's index up in the namespace of the thread that asks.
struct HookPlace {
  std::string netns;
  uint32_t ifindex;
  bool ingress;
};

}  // namespace remora
