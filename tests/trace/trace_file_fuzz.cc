// Feeds bytes to the reader of the binary form: as a block, past the checksum
// that a fuzzer cannot guess, and as a whole file.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guestmm/base/check.h"
#include "src/trace/trace_block.h"
#include "tests/trace/trace_testing.h"

namespace {

using guestmm::TraceEvent;
using guestmm::trace::DecodeBlock;

void TryBlock(const std::string& block, std::size_t count) {
  const std::string padding(guestmm::trace::kBlockPadding, '\0');
  std::vector<TraceEvent> events;
  if (!DecodeBlock(block + padding, count, events).ok()) {
    GUESTMM_CHECK(events.empty());
    return;
  }
  GUESTMM_CHECK(events.size() == count);
  std::vector<TraceEvent> again;
  const std::string encoded = guestmm::trace::EncodeBlock(events);
  GUESTMM_CHECK(DecodeBlock(encoded + padding, count, again).ok());
  GUESTMM_CHECK(again == events);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size) {
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  TryBlock(bytes, data[0]);
  if (data[1] < 64) {
    // A good block with some bytes changed.
    std::string block =
        guestmm::trace::EncodeBlock(guestmm::trace::SomeEvents(1 + data[1]));
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
      block[static_cast<unsigned char>(bytes[i]) % block.size()] = bytes[i + 1];
    }
    TryBlock(block, 1 + std::size_t{data[1]});
  }
  guestmm::trace::ReadWhole(std::string(guestmm::trace::kTraceFileMagic) +
                            bytes);
  return 0;
}
