// SPDX-License-Identifier: Apache-2.0
// What a person needs of a verifier's log.
#pragma once

#include <optional>
#include <string>

namespace remora {

// The last line or two, which say why, and the source line it speaks of where there is one. Empty where the log says nothing.
// `missing`: what the program refers to and this kernel does not have, for a log that ends there; else of no effect.
std::string tellingLine(const std::string &log, const std::string &missing = {});

// The instruction of the program as loaded at which a reference to what this kernel does not have (CO-RE) ended the
// verification, or none.
std::optional<int> unresolvedInstruction(const std::string &log);

}  // namespace remora
