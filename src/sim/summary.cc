#include "src/sim/summary.h"

namespace guestmm {

nlohmann::ordered_json HostJson(const HostInfo& host) {
  return {{"page_size", host.page_size},
          {"kernel", host.kernel},
          {"thp", host.thp},
          {"memory_bytes", host.memory_bytes}};
}

nlohmann::ordered_json VersionsJson() {
#if defined(__clang__)
  const char* const compiler = "clang " __clang_version__;
#else
  const char* const compiler = "gcc " __VERSION__;
#endif
  return {{"guestmm", GUESTMM_VERSION}, {"compiler", compiler}};
}

}  // namespace guestmm
