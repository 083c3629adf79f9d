// SPDX-License-Identifier: Apache-2.0
// Pins: names in a bpffs that keep maps, programs and links alive.
#pragma once

#include <string>

#include "fd.h"
#include "result.h"

namespace remora {

// 0 or a negative errno.
int pin(int fd, const std::string &path);

struct PinnedThing {
  std::string kind;  // map, program or link
  UniqueFd fd;
};
Result<PinnedThing> openPin(const std::string &path);

// Opens a directory and locks it (flock). EWOULDBLOCK where another has it; the last close of the descriptor unlocks.
Result<UniqueFd> tryLock(const std::string &path);

}  // namespace remora
