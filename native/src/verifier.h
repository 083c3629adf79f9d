// SPDX-License-Identifier: Apache-2.0
// What a person needs of a verifier's log.
#pragma once

#include <string>

namespace remora {

// The last line or two, which say why, and the source line it speaks of where there is one. Empty where the log says nothing.
std::string tellingLine(const std::string &log);

}  // namespace remora
