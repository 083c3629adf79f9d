// SPDX-License-Identifier: Apache-2.0
// BPF_PROG_TEST_RUN of a TC program.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <vector>

#include "result.h"

namespace remora {

struct TestRunSpec {
  int program;
  std::vector<uint8_t> packet;
  __sk_buff context;
  uint32_t repeat;
};
struct TestRunOutcome {
  int32_t verdict;
  std::vector<uint8_t> packet;
  __sk_buff context;
  uint32_t duration;  // nanoseconds, average of a run
};
Result<TestRunOutcome> testRun(TestRunSpec spec);

}  // namespace remora
