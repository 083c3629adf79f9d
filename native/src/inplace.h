// SPDX-License-Identifier: Apache-2.0
// A user's program whose instructions belong to its stage, instead of being a function that the stage calls.
//
// Each `exit` of the entry becomes a jump back into the prologue, where the verdict is judged. The prologue needs the
// context again there, and the entry may use all registers and its stack as it likes: so the context waits in a register
// that the entry never names, or on the stack beneath what it uses. Nothing has to be believed here: if the entry overwrote
// that place after all, the verifier would refuse the tail call, which takes a context and nothing else. (With a pointer, on
// a way that only ends, it would not; then the count of bytes that ended is wrong.)
//
// Functions that the entry calls are as they are. Their `exit` returns to the entry.
#pragma once

#include <linux/bpf.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "prologue.h"

namespace remora {

// Where the context can wait. None: the entry uses all of the stack and of the registers, its jumps would be too far, it
// makes tail calls or ends in other ways than by `exit`, or it does not set its verdict.
// `insns`: as libbpf has them, the entry first and the functions that it calls behind it.
std::optional<ContextHome> homeBeside(const std::vector<bpf_insn> &insns);

// Makes the entry go to an instruction with its verdict; `target` is counted from the entry's first one.
void returnTo(std::vector<bpf_insn> &insns, ptrdiff_t target);

}  // namespace remora
