// SPDX-License-Identifier: Apache-2.0
#include "fd.h"

#include <fcntl.h>

namespace remora {

UniqueFd duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

}  // namespace remora
