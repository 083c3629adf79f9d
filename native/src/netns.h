// SPDX-License-Identifier: Apache-2.0
// Work inside another network namespace, on a thread that is thrown away afterwards: neither the main thread nor a
// pool thread ever changes its namespace.
#pragma once

#include <linux/netlink.h>

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

// The same for work that returns something; `path` is what was opened.
template <typename T>
Result<T> visit(const UniqueFd &space, const std::string &path, const std::function<Result<T>()> &work) {
  Result<T> result = failed(EIO);
  if (int error = inNamespace(space.get(), [&] { result = work(); })) return failedDoing("entering " + path, error);
  return result;
}

// The same in the namespace of a path; an empty one is the plugin's own.
template <typename T>
Result<T> visit(const std::string &path, const std::function<Result<T>()> &work) {
  if (path.empty()) return work();
  auto space = openNamespace(path);
  if (!space) return space.failure();
  return visit(*space, path, work);
}

// By the nsfs file, whose number is given again as soon as the namespace is gone, and by the kernel's cookie, which never is (0 before
// Linux 5.14). What cannot be asked is a failure, never an identity that looks like another's.
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

// The device's name in the calling thread's namespace. ENODEV where there is no such device. (if_indextoname has the same errno for
// that and for a process that has no descriptor left.)
Result<std::string> nameOfDevice(uint32_t ifindex);

// Asks rtnetlink, in the calling thread's namespace, for a list and gives each message of it to `each`; `request` is a whole message, to
// which the flags are added. 0, or the errno it answers: what came before is not all then.
int dump(nlmsghdr &request, const std::function<void(const nlmsghdr &)> &each);

// The interface's addresses of both families, without their lengths. ENODEV where there is no such interface.
Result<std::vector<std::string>> interfaceAddresses(const std::string &path, const std::string &name);

}  // namespace remora
