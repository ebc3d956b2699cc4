// A line of a control socket: parsed, or refused with a reason.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "guestmm/base/check.h"
#include "guestmm/vmm/control/request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  const auto request = guestmm::ParseControlRequest(line);
  if (!request.ok()) {
    GUESTMM_CHECK(!request.status().message().empty());
    return 0;
  }
  const auto again =
      guestmm::ParseControlRequest(guestmm::FormatControlRequest(*request));
  GUESTMM_CHECK(again.ok() && *again == *request);
  return 0;
}
