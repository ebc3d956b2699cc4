#include <cstdio>
#include <memory>

#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/v12_policy.h"

int main() {
  const auto guest = guestmm::Guest::Create(
      {.memory = guestmm::MemoryMap::Pc(16 * guestmm::kMiB), .make_policy = [] {
         return std::make_unique<guestmm::V12Policy>(guestmm::V12Options{});
       }});
  std::printf("%s\n", guest.status().ToString().c_str());
  return guest.ok() && (*guest)->vcpu(0).Allocate(guestmm::Order(0)) ? 0 : 1;
}
