// SPDX-License-Identifier: Apache-2.0
#include "verifier.h"

#include <cctype>
#include <cstdlib>
#include <vector>

namespace remora {
namespace {

// The statistics at the end of each log, and the states below "infinite loop detected".
bool isStatistics(const std::string &line) {
  for (const char *start : {"processed ", "verification time ", "stack depth ", "cur state: ", "old state: "})
    if (line.rfind(start, 0) == 0) return true;
  return false;
}

// Neither an instruction (`12: (61) r1 = ...`, `from 3 to 5: ...`) nor a source line (`; return x;`) nor a heading.
bool isProse(const std::string &line) {
  bool instruction = isdigit(static_cast<unsigned char>(line[0])) || line.rfind("from ", 0) == 0;
  return !instruction && line[0] != ';' && line.rfind("Validating ", 0) != 0 && line.rfind("mark_precise", 0) != 0 &&
         line.find(" is safe for any args ") == std::string::npos;
}

std::string trimmed(const std::string &line) {
  auto first = line.find_first_not_of(" \t\r");
  if (first == std::string::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

// libbpf puts a call of a helper that cannot be where it could not resolve something that may never be reached.
std::string unresolved(const std::string &line, const std::string &missing) {
  auto at = line.find("unknown#");
  if (at == std::string::npos) return {};
  switch (long id = strtol(line.c_str() + at + 8, nullptr, 10); id / 1000000) {
    case 195: return "a type or field that it reads (CO-RE) is not in this kernel" + (missing.empty() ? "" : ": " + missing);
    case 2001: return "it uses a map that was not created";
    case 2002: return "it calls a kernel function (kfunc) that is not in this kernel";
    default: return {};
  }
}

}  // namespace

std::optional<int> unresolvedInstruction(const std::string &log) {
  auto at = log.rfind(": (85) call unknown#195896080");
  if (at == std::string::npos) return std::nullopt;
  auto start = log.find_last_not_of("0123456789", at == 0 ? 0 : at - 1);
  return atoi(log.c_str() + (start == std::string::npos ? 0 : start + 1));
}

std::string tellingLine(const std::string &log, const std::string &missing) {
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
  if (auto cause = unresolved(reason, missing); !cause.empty()) reason = cause;
  if (reason.find("number of funcs in func_info doesn't match number of subprogs") != std::string::npos)
    return "it uses a callback (bpf_loop, bpf_for_each_map_elem, a timer), and callbacks came with Linux 5.13";
  for (size_t i = lines.size(); i-- > 0;)
    if (lines[i].rfind("; ", 0) == 0) return reason + " (at: " + lines[i].substr(2) + ")";
  return reason;
}

}  // namespace remora
