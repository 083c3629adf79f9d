// SPDX-License-Identifier: Apache-2.0
// What the plain C++ here returns: a value, or a failure with its errno, what to tell the person, and a log.
#pragma once

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace remora {

// Not an errno: Remora itself refuses, before the kernel has seen anything.
constexpr int kRefused = 1 << 20;

struct Failure {
  int error;            // a positive errno, or kRefused
  std::string message;  // empty: the errno's own text says it all
  std::string log;      // the verifier's or libbpf's, where there is one
};

inline Failure refused(std::string message) { return {kRefused, std::move(message), {}}; }
inline Failure failed(int error, std::string message = {}) { return {error, std::move(message), {}}; }
inline Failure failedDoing(const std::string &what, int error = errno) {
  return {error, what + ": " + strerror(error), {}};
}
inline Failure failedErrno() { return {errno, {}, {}}; }

template <typename T>
class Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Failure failure) : failure_(std::move(failure)) {}

  explicit operator bool() const { return value_.has_value(); }
  T &operator*() { return *value_; }
  T *operator->() { return &*value_; }
  Failure failure() const { return failure_; }

 private:
  std::optional<T> value_;
  Failure failure_{};
};

}  // namespace remora
