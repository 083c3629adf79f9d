// SPDX-License-Identifier: Apache-2.0
#include "netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
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
  // Not by getifaddrs(3): it begins with a list of devices, and asks again and again while one is too large for its buffer, which a
  // process of the pod can see to with alternative names.
  struct {
    nlmsghdr header;
    ifaddrmsg subject;
  } list{};
  list.header = {.nlmsg_len = sizeof(list), .nlmsg_type = RTM_GETADDR};
  std::vector<std::string> found;
  int error = dump(list.header, [&](auto &message) {
    if (message.nlmsg_type != RTM_NEWADDR || NLMSG_PAYLOAD(&message, 0) < sizeof(ifaddrmsg)) return;
    auto facts = static_cast<ifaddrmsg *>(NLMSG_DATA(&message));
    if (facts->ifa_index != static_cast<uint32_t>(request.ifr_ifindex)) return;
    // Of a pair of addresses, IFA_ADDRESS is the other end's.
    const rtattr *own = nullptr;
    int left = static_cast<int>(IFA_PAYLOAD(&message));
    for (auto at = IFA_RTA(facts); RTA_OK(at, left); at = RTA_NEXT(at, left))
      if (at->rta_type == IFA_LOCAL || (at->rta_type == IFA_ADDRESS && !own)) own = at;
    size_t size = facts->ifa_family == AF_INET ? sizeof(in_addr) : facts->ifa_family == AF_INET6 ? sizeof(in6_addr) : 0;
    char text[INET6_ADDRSTRLEN];
    if (size && own && RTA_PAYLOAD(own) == size && inet_ntop(facts->ifa_family, RTA_DATA(own), text, sizeof(text)))
      found.emplace_back(text);
  });
  if (error) return failed(error);
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

int dump(nlmsghdr &request, const std::function<void(const nlmsghdr &)> &each) {
  UniqueFd netlink(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!netlink) return errno;
  request.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  if (send(netlink.get(), &request, request.nlmsg_len, 0) < 0) return errno;

  alignas(nlmsghdr) char buffer[1 << 16];
  for (;;) {
    auto size = recv(netlink.get(), buffer, sizeof(buffer), 0);
    if (size < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    for (auto at = reinterpret_cast<nlmsghdr *>(buffer); NLMSG_OK(at, size); at = NLMSG_NEXT(at, size)) {
      if (at->nlmsg_type == NLMSG_DONE) {  // a list that breaks off says why at its end
        int error = 0;
        if (NLMSG_PAYLOAD(at, 0) >= sizeof(error)) std::memcpy(&error, NLMSG_DATA(at), sizeof(error));
        return -error;
      }
      if (at->nlmsg_type == NLMSG_ERROR) return -static_cast<nlmsgerr *>(NLMSG_DATA(at))->error;
      each(*at);
    }
  }
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
