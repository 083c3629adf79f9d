// SPDX-License-Identifier: Apache-2.0
// Work inside another network namespace, on a thread that is thrown away afterwards: neither the main thread nor a
// pool thread ever changes its namespace.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fd.h"
#include "result.h"

namespace remora {

// The namespace of a path such as /run/netns/NAME or /proc/PID/ns/net. EINVAL where the path is something else.
Result<UniqueFd> openNamespace(const std::string &path);

// Runs `work` in the namespace. 0, or the errno of the thread or of setns.
int inNamespace(int fd, const std::function<void()> &work);

struct NamespaceId {
  uint64_t dev, ino, cookie;
};
Result<NamespaceId> namespaceIdentity(const std::string &path);

struct InterfaceFacts {
  uint32_t ifindex, mtu;
  std::string mac;  // empty where the device has no Ethernet header
  NamespaceId where;
};
Result<InterfaceFacts> findInterface(const std::string &path, const std::string &name);

// The interface's addresses of both families, without their lengths. ENODEV where there is no such interface.
Result<std::vector<std::string>> interfaceAddresses(const std::string &path, const std::string &name);

}  // namespace remora
