// SPDX-License-Identifier: Apache-2.0
// Ring buffers, read from the other end.
#pragma once

#include <cstdint>
#include <vector>

#include "result.h"

namespace remora {

// A reader's number. It maps the buffer into memory until it is closed.
Result<uint32_t> openEvents(int map);
// What is there by now, in order, up to `limit` events.
Result<std::vector<std::vector<uint8_t>>> readEvents(uint32_t reader, uint32_t limit);
// 0 or a negative errno.
int closeEvents(uint32_t reader);

}  // namespace remora
