// SPDX-License-Identifier: Apache-2.0
#include "peer.h"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "fd.h"
#include "netns.h"

namespace remora {
namespace {

// What rtnetlink says of a device. Numbers of namespaces (nsid) are those of the namespace that was asked.
struct Device {
  uint32_t ifindex = 0;
  std::string name, kind;
  std::optional<uint32_t> link;     // IFLA_LINK: the index of the other end
  std::optional<int32_t> linkNsid;  // IFLA_LINK_NETNSID: where that is, if elsewhere
};

constexpr size_t kReplySize = 256u << 10;

using OnAttribute = std::function<void(const rtattr *)>;

// A request with at most one attribute; `fixed` is the message's own header.
struct Message {
  alignas(nlmsghdr) char bytes[256] = {};
  nlmsghdr *header() { return reinterpret_cast<nlmsghdr *>(bytes); }

  template <typename Fixed>
  Message(uint16_t type, const Fixed &fixed) {
    *header() = {.nlmsg_len = NLMSG_LENGTH(sizeof(fixed)), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST};
    std::memcpy(NLMSG_DATA(header()), &fixed, sizeof(fixed));
  }
  void add(uint16_t type, const void *value, size_t size) {
    auto at = reinterpret_cast<rtattr *>(bytes + NLMSG_ALIGN(header()->nlmsg_len));
    at->rta_type = type;
    at->rta_len = static_cast<uint16_t>(RTA_LENGTH(size));
    std::memcpy(RTA_DATA(at), value, size);
    header()->nlmsg_len = NLMSG_ALIGN(header()->nlmsg_len) + RTA_ALIGN(at->rta_len);
  }
};

void forEach(const rtattr *first, int length, const OnAttribute &visit) {
  for (auto at = first; RTA_OK(at, length); at = RTA_NEXT(at, length)) visit(at);
}

// One question, one answer, whose fixed header is copied to `fixed`. 0 or a positive errno.
template <typename Fixed>
int ask(int socket, Message &message, uint16_t answer, Fixed &fixed, const OnAttribute &visit) {
  if (send(socket, message.bytes, message.header()->nlmsg_len, 0) < 0) return errno;
  // With as many alternative names as a device may have it is larger than 64 KiB.
  std::vector<uint64_t> reply(kReplySize / sizeof(uint64_t));
  auto size = recv(socket, reply.data(), kReplySize, 0);
  if (size < 0) return errno;
  auto header = reinterpret_cast<nlmsghdr *>(reply.data());
  if (!NLMSG_OK(header, static_cast<size_t>(size))) return EPROTO;
  if (header->nlmsg_type == NLMSG_ERROR) {
    auto error = reinterpret_cast<nlmsgerr *>(NLMSG_DATA(header));
    return error->error ? -error->error : EPROTO;
  }
  if (header->nlmsg_type != answer || header->nlmsg_len < NLMSG_LENGTH(sizeof(fixed))) return EPROTO;
  std::memcpy(&fixed, NLMSG_DATA(header), sizeof(fixed));
  auto start = reinterpret_cast<char *>(header) + NLMSG_SPACE(sizeof(fixed));
  forEach(reinterpret_cast<rtattr *>(start), static_cast<int>(header->nlmsg_len - NLMSG_SPACE(sizeof(fixed))), visit);
  return 0;
}

std::string text(const rtattr *at) {
  auto bytes = static_cast<const char *>(RTA_DATA(at));
  return {bytes, strnlen(bytes, RTA_PAYLOAD(at))};
}
template <typename T>
T number(const rtattr *at) {
  T value{};
  std::memcpy(&value, RTA_DATA(at), std::min(sizeof(value), static_cast<size_t>(RTA_PAYLOAD(at))));
  return value;
}

int getDevice(int socket, Message &message, Device &device) {
  ifinfomsg info{};
  int error = ask(socket, message, RTM_NEWLINK, info, [&](const rtattr *at) {
    switch (at->rta_type & NLA_TYPE_MASK) {
      case IFLA_IFNAME: device.name = text(at); break;
      case IFLA_LINK: device.link = number<uint32_t>(at); break;
      case IFLA_LINK_NETNSID: device.linkNsid = number<int32_t>(at); break;
      case IFLA_LINKINFO:
        forEach(static_cast<const rtattr *>(RTA_DATA(at)), static_cast<int>(RTA_PAYLOAD(at)), [&](const rtattr *inner) {
          if ((inner->rta_type & NLA_TYPE_MASK) == IFLA_INFO_KIND) device.kind = text(inner);
        });
    }
  });
  device.ifindex = static_cast<uint32_t>(info.ifi_index);
  // Older kernels leave it out where both ends have the same index.
  if (!device.link && device.linkNsid) device.link = device.ifindex;
  return error;
}

int deviceByName(int socket, const std::string &name, Device &device) {
  Message message(RTM_GETLINK, ifinfomsg{});
  message.add(IFLA_IFNAME, name.c_str(), name.size() + 1);
  return getDevice(socket, message, device);
}

int deviceByIndex(int socket, uint32_t ifindex, Device &device) {
  ifinfomsg info{};
  info.ifi_index = static_cast<int>(ifindex);
  Message message(RTM_GETLINK, info);
  return getDevice(socket, message, device);
}

// The number by which the socket's namespace knows another; -1 where it has none.
int nsidOf(int socket, int netns, int32_t &nsid) {
  Message message(RTM_GETNSID, rtgenmsg{});
  message.add(NETNSA_FD, &netns, sizeof(netns));
  rtgenmsg answer{};
  nsid = -1;
  return ask(socket, message, RTM_NEWNSID, answer, [&](const rtattr *at) {
    if (at->rta_type == NETNSA_NSID) nsid = number<int32_t>(at);
  });
}

Result<UniqueFd> netlink() {
  UniqueFd made(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!made) return failedErrno();
  return made;
}

}  // namespace

Result<PeerFacts> findPeer(const std::string &netns, const std::string &name) {
  if (name.empty() || name.size() >= IFNAMSIZ) return failed(ENODEV);
  auto pod = openNamespace(netns);
  if (!pod) return pod.failure();
  UniqueFd host(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!host) return failedDoing("opening /proc/thread-self/ns/net");

  // A socket stays in the namespace in which it was made.
  auto inside = visit<UniqueFd>(*pod, netns, netlink), outside = netlink();
  if (!inside) return inside.failure();
  if (!outside) return outside.failure();

  Device device;
  if (int error = deviceByName(inside->get(), name, device)) return failed(error);
  if (device.kind == "netkit")
    return refused(name + " is a netkit device: programs on the pair itself can redirect packets before they reach the hook of "
                          "the host's end");
  if (device.kind != "veth")
    return refused(name + (device.kind.empty() ? " is hardware, or the loopback" : " is a " + device.kind + " device") +
                   ": only a veth pair has an end at the host");
  int32_t hostNsid, podNsid;
  if (int error = nsidOf(inside->get(), host.get(), hostNsid)) return failed(error);
  if (!device.link || !device.linkNsid || hostNsid < 0 || *device.linkNsid != hostNsid)
    return refused("the other end of " + name + " is not in the network namespace of the host, but in " +
                   (device.linkNsid ? "a third one" : "its own"));
  Device peer;
  if (int error = deviceByIndex(outside->get(), *device.link, peer)) return failed(error);
  if (int error = nsidOf(outside->get(), pod->get(), podNsid)) return failed(error);
  if (peer.kind != device.kind || peer.link != device.ifindex || podNsid < 0 || peer.linkNsid != podNsid)
    return refused("the other end of " + name + " seems to be " + peer.name + ", which is paired with another device");
  return PeerFacts{peer.ifindex, peer.name, peer.kind};
}

}  // namespace remora
