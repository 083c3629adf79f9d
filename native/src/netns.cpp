// SPDX-License-Identifier: Apache-2.0
#include "netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>
#include <system_error>
#include <thread>

namespace remora {
namespace {

#ifndef SO_NETNS_COOKIE
constexpr int SO_NETNS_COOKIE = 71;  // Linux 5.14
#endif

// Device ioctls work on a socket of any family.
UniqueFd anySocket() { return UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)); }

// `socket` was made in the namespace that `file` names.
Result<NamespaceId> identity(const struct stat &file, int socket) {
  NamespaceId id{file.st_dev, file.st_ino, 0};
  socklen_t size = sizeof(id.cookie);
  if (getsockopt(socket, SOL_SOCKET, SO_NETNS_COOKIE, &id.cookie, &size) && errno != ENOPROTOOPT)
    return failedDoing("reading the namespace's cookie");
  return id;
}

// Asks for the index of a device by any of its names. ENODEV where there is none.
int askForIndex(int socket, const std::string &name, ifreq &request) {
  if (name.empty() || name.size() >= sizeof(request.ifr_name)) return ENODEV;
  std::memcpy(request.ifr_name, name.data(), name.size());
  return ioctl(socket, SIOCGIFINDEX, &request) ? errno : 0;
}

Result<InterfaceFacts> lookUp(const struct stat &file, const std::string &name) {
  UniqueFd socket = anySocket();
  if (!socket) return failedErrno();
  ifreq request{};
  InterfaceFacts facts{};
  if (int error = askForIndex(socket.get(), name, request)) return failed(error);
  facts.ifindex = static_cast<uint32_t>(request.ifr_ifindex);
  if (ioctl(socket.get(), SIOCGIFMTU, &request)) return failedErrno();
  facts.mtu = static_cast<uint32_t>(request.ifr_mtu);
  if (ioctl(socket.get(), SIOCGIFHWADDR, &request)) return failedErrno();
  if (request.ifr_hwaddr.sa_family == ARPHRD_ETHER || request.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK) {
    auto byte = reinterpret_cast<const unsigned char *>(request.ifr_hwaddr.sa_data);
    char text[18];
    snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", byte[0], byte[1], byte[2], byte[3], byte[4], byte[5]);
    facts.mac = text;
  }
  auto where = identity(file, socket.get());
  if (!where) return where.failure();
  facts.where = *where;
  return facts;
}

Result<std::vector<std::string>> listAddresses(const std::string &name) {
  UniqueFd socket = anySocket();
  if (!socket) return failedErrno();
  ifreq request{};
  if (int error = askForIndex(socket.get(), name, request)) return failed(error);
  // It may be an alternative name, and addresses are listed by the first.
  auto first = nameOfDevice(static_cast<uint32_t>(request.ifr_ifindex));
  if (!first) return first.failure();
  ifaddrs *all = nullptr;
  if (getifaddrs(&all)) return failedErrno();
  std::vector<std::string> found;
  for (auto at = all; at; at = at->ifa_next) {
    // An IPv4 address may have a label of its own, which begins with the device's name: eth0:1.
    std::string device = at->ifa_name ? at->ifa_name : "";
    if (!at->ifa_addr || (device != *first && !device.starts_with(*first + ":"))) continue;
    int family = at->ifa_addr->sa_family;
    const void *address = family == AF_INET ? static_cast<const void *>(&reinterpret_cast<sockaddr_in *>(at->ifa_addr)->sin_addr)
                          : family == AF_INET6 ? static_cast<const void *>(&reinterpret_cast<sockaddr_in6 *>(at->ifa_addr)->sin6_addr)
                                               : nullptr;
    char text[INET6_ADDRSTRLEN];
    if (address && inet_ntop(family, address, text, sizeof(text))) found.emplace_back(text);
  }
  freeifaddrs(all);
  return found;
}

}  // namespace

Result<UniqueFd> openNamespace(const std::string &path) {
  // Not blocking: the path may name anything, a FIFO too.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return failedDoing("opening " + path);
  int type = ioctl(fd.get(), NS_GET_NSTYPE);
  if (type < 0) return failed(EINVAL, path + " is no namespace");
  if (type != CLONE_NEWNET) return failed(EINVAL, path + " is a namespace, but no network namespace");
  return fd;
}

int inNamespace(int fd, const std::function<void()> &work) {
  int error = 0;
  try {
    std::thread([&] {
      if (setns(fd, CLONE_NEWNET))
        error = errno;
      else
        work();
    }).join();
  } catch (const std::system_error &failure) {
    return failure.code().value();
  }
  return error;
}

Result<std::string> nameOfDevice(uint32_t ifindex) {
  UniqueFd socket = anySocket();
  if (!socket) return failedErrno();
  ifreq request{};
  request.ifr_ifindex = static_cast<int>(ifindex);
  if (ioctl(socket.get(), SIOCGIFNAME, &request)) return failedErrno();
  return std::string(request.ifr_name, strnlen(request.ifr_name, sizeof(request.ifr_name)));
}

namespace {

// For work that is told what file the path names.
template <typename T>
Result<T> visitFile(const std::string &path, const std::function<Result<T>(const struct stat &)> &work) {
  auto space = openNamespace(path);
  if (!space) return space.failure();
  struct stat file;
  if (fstat(space->get(), &file)) return failedDoing("opening " + path);
  return visit<T>(*space, path, [&] { return work(file); });
}

}  // namespace

Result<NamespaceId> namespaceIdentity(const std::string &path) {
  return visitFile<NamespaceId>(path, [](auto &file) -> Result<NamespaceId> {
    UniqueFd socket = anySocket();
    if (!socket) return failedErrno();
    return identity(file, socket.get());
  });
}

Result<InterfaceFacts> findInterface(const std::string &path, const std::string &name) {
  return visitFile<InterfaceFacts>(path, [&](auto &file) { return lookUp(file, name); });
}

Result<std::vector<std::string>> interfaceAddresses(const std::string &path, const std::string &name) {
  return visit<std::vector<std::string>>(path, [&] { return listAddresses(name); });
}

}  // namespace remora
