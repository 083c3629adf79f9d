// SPDX-License-Identifier: Apache-2.0
#include "testrun.h"

#include <bpf/bpf.h>

namespace remora {

Result<TestRunOutcome> testRun(TestRunSpec spec) {
  TestRunOutcome outcome{};
  outcome.packet.resize(spec.packet.size() + (64u << 10));  // programs may grow it
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = spec.packet.data(), .data_out = outcome.packet.data(),
              .data_size_in = static_cast<uint32_t>(spec.packet.size()),
              .data_size_out = static_cast<uint32_t>(outcome.packet.size()), .ctx_in = &spec.context,
              .ctx_out = &outcome.context, .ctx_size_in = sizeof(spec.context), .ctx_size_out = sizeof(outcome.context),
              .repeat = static_cast<int>(spec.repeat));
  if (bpf_prog_test_run_opts(spec.program, &options)) return failedErrno();
  outcome.packet.resize(options.data_size_out);
  outcome.verdict = static_cast<int32_t>(options.retval);
  outcome.duration = options.duration;
  return outcome;
}

}  // namespace remora
