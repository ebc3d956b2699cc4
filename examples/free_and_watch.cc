// A guest touches 512 MiB and frees it, and its host gets the memory back.

#include <iostream>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/v12_policy.h"

using namespace guestmm;

int main() {
  VirtualTime time(/*seed=*/1);  // unset: reporting runs on threads
  const auto guest = Guest::Create(
      {.memory = MemoryMap::Pc(kGiB),
       .make_policy = [] { return std::make_unique<V12Policy>(V12Options{}); },
       .virtual_time = &time});
  if (!guest.ok()) return std::cerr << guest.status() << "\n", 1;
  Vcpu& vcpu = (*guest)->vcpu(0);

  std::vector<Pfn> blocks;
  for (int i = 0; i < 256; ++i) {
    blocks.push_back(vcpu.Allocate(kPageblockOrder).value());
    vcpu.Touch(blocks.back(), kPageblockOrder, /*stamp=*/1);
  }
  std::cout << FormatBytes(*(*guest)->ram().ResidentBytes()) << " before\n";
  for (const Pfn block : blocks) vcpu.Free(block, kPageblockOrder);
  time.RunUntilIdle();
  std::cout << FormatBytes(*(*guest)->ram().ResidentBytes()) << " after\n";
}
