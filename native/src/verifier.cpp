// SPDX-License-Identifier: Apache-2.0
#include "verifier.h"

#include <cctype>
#include <vector>

namespace remora {
namespace {

// The statistics that the verifier writes at the end of each log.
bool isStatistics(const std::string &line) {
  for (const char *start : {"processed ", "verification time ", "stack depth ", "max_states_per_insn"})
    if (line.rfind(start, 0) == 0) return true;
  return false;
}

// Neither an instruction (`12: (61) r1 = ...`, `from 3 to 5: ...`) nor a source line (`; return x;`) nor a heading.
bool isProse(const std::string &line) {
  bool instruction = isdigit(static_cast<unsigned char>(line[0])) || line.rfind("from ", 0) == 0;
  return !instruction && line[0] != ';' && line.rfind("Validating ", 0) != 0 && line.rfind("mark_precise", 0) != 0 &&
         line.rfind("func#", 0) != 0;
}

std::string trimmed(const std::string &line) {
  auto first = line.find_first_not_of(" \t\r");
  if (first == std::string::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

std::string tellingLine(const std::string &log) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < log.size();) {
    size_t end = log.find('\n', at);
    if (end == std::string::npos) end = log.size();
    auto line = trimmed(log.substr(at, end - at));
    if (!line.empty() && !isStatistics(line)) lines.push_back(line);
    at = end + 1;
  }
  if (lines.empty()) return {};
  std::string reason = lines.back();
  if (lines.size() > 1 && isProse(lines[lines.size() - 2])) reason = lines[lines.size() - 2] + "; " + reason;
  for (size_t i = lines.size(); i-- > 0;)
    if (lines[i].rfind("; ", 0) == 0) return reason + " (at: " + lines[i].substr(2) + ")";
  return reason;
}

}  // namespace remora
