// SPDX-License-Identifier: Apache-2.0
// A kernel for the fuzz target: libbpf's syscall(2) ends up here (see scripts/make/fuzzer.ts). bpf(2) makes whatever it is
// asked for, as an empty file of its own, and reads all that it is given, as the kernel would copy it in.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstring>

namespace {

// Large enough for the values of any map that libbpf would map into memory; it costs nothing until it is written.
constexpr off_t kLargest = off_t{1} << 33;

int emptyFile() {
  int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd >= 0 && ftruncate(fd, kLargest)) {
    close(fd);
    return -1;
  }
  return fd;
}

void read(uint64_t address, uint64_t size) {
  volatile uint8_t sink = 0;
  auto bytes = reinterpret_cast<const uint8_t *>(address);
  for (uint64_t i = 0; bytes && i < size; i++) sink = sink ^ bytes[i];
}

long bpf(int command, bpf_attr *attr) {
  switch (command) {
    case BPF_PROG_LOAD:
      read(attr->insns, uint64_t{attr->insn_cnt} * sizeof(bpf_insn));
      read(attr->func_info, uint64_t{attr->func_info_cnt} * attr->func_info_rec_size);
      read(attr->line_info, uint64_t{attr->line_info_cnt} * attr->line_info_rec_size);
      return emptyFile();
    case BPF_BTF_LOAD:
      read(attr->btf, attr->btf_size);
      return emptyFile();
    case BPF_MAP_CREATE:
      return emptyFile();
    case BPF_OBJ_GET_INFO_BY_FD:
      memset(reinterpret_cast<void *>(attr->info.info), 0, attr->info.info_len);
      return 0;
    case BPF_MAP_UPDATE_ELEM:
    case BPF_MAP_FREEZE:
    case BPF_PROG_BIND_MAP:
      return 0;
    default:
      errno = EINVAL;
      return -1;
  }
}

}  // namespace

extern "C" long fuzz_syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  long result = -1;
  if (number == SYS_bpf) {
    int command = va_arg(arguments, int);
    result = bpf(command, va_arg(arguments, bpf_attr *));
  } else if (number == SYS_memfd_create) {
    auto name = va_arg(arguments, const char *);
    result = memfd_create(name, va_arg(arguments, unsigned));
  } else if (number == SYS_dup3) {
    int from = va_arg(arguments, int), to = va_arg(arguments, int);
    result = dup3(from, to, va_arg(arguments, int));
  } else {
    errno = ENOSYS;
  }
  va_end(arguments);
  return result;
}
