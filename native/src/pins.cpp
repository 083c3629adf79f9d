// SPDX-License-Identifier: Apache-2.0
#include "pins.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace remora {

int pin(int fd, const std::string &path) { return bpf_obj_pin(fd, path.c_str()); }

Result<PinnedThing> openPin(const std::string &path) {
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (!fd) return failedErrno();
  // bpf(2) has no call that asks what a descriptor is; the name of its anonymous inode says it.
  char target[64];
  ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), target, sizeof(target));
  if (length < 0) return failedDoing("reading /proc/self/fd");
  std::string name(target, static_cast<size_t>(length));
  for (auto [part, kind] : {std::pair("bpf-map", "map"), {"bpf-prog", "program"}, {"bpf_link", "link"}, {"bpf-link", "link"}})
    if (name.find(part) != std::string::npos) return PinnedThing{kind, std::move(fd)};
  return failed(EINVAL, "neither map, program nor link: " + name);
}

Result<UniqueFd> tryLock(const std::string &path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd || flock(fd.get(), LOCK_EX | LOCK_NB)) return failedErrno();
  return fd;
}

}  // namespace remora
