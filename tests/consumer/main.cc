#include <cstdio>

#include "guestmm/base/units.h"

int main() {
  const guestmm::Order order = guestmm::kPageblockOrder;
  const guestmm::Pfn block(512);
  std::printf("the buddy of block %llu at order %d is %llu\n",
              static_cast<unsigned long long>(block.value()), order.value(),
              static_cast<unsigned long long>(block.Buddy(order).value()));
}
