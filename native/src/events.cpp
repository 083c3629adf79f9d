// SPDX-License-Identifier: Apache-2.0
#include "events.h"

#include <bpf/libbpf.h>

#include <cerrno>
#include <map>
#include <memory>

namespace remora {
namespace {

using Event = std::vector<uint8_t>;

struct Reader {
  std::unique_ptr<ring_buffer, void (*)(ring_buffer *)> buffer{nullptr, ring_buffer__free};
  std::vector<Event> taken;
};

// Node-API calls come from one thread.
std::map<uint32_t, std::unique_ptr<Reader>> &readers() {
  static std::map<uint32_t, std::unique_ptr<Reader>> all;
  return all;
}

int take(void *context, void *data, size_t size) {
  auto bytes = static_cast<const uint8_t *>(data);
  static_cast<Reader *>(context)->taken.emplace_back(bytes, bytes + size);
  return 0;
}

}  // namespace

Result<uint32_t> openEvents(int map) {
  static uint32_t last = 0;
  auto reader = std::make_unique<Reader>();
  reader->buffer.reset(ring_buffer__new(map, take, reader.get(), nullptr));
  if (!reader->buffer) return failedErrno();
  readers()[++last] = std::move(reader);
  return last;
}

Result<std::vector<Event>> readEvents(uint32_t number, uint32_t limit) {
  auto found = readers().find(number);
  if (found == readers().end()) return failed(EBADF);
  auto &reader = *found->second;
  int count = ring_buffer__consume_n(reader.buffer.get(), limit);
  auto taken = std::move(reader.taken);
  reader.taken.clear();
  if (count < 0) return failed(-count);
  return taken;
}

int closeEvents(uint32_t number) { return readers().erase(number) == 1 ? 0 : -EBADF; }

}  // namespace remora
