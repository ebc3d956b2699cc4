// A world to be looked at in gdb (gdb_run): stops in Look.

#include "tests/testing/tiny_zone.h"

namespace guestmm {
namespace {

[[gnu::noinline]] void Look(const Zone& zone, Pfn pfn, Order order,
                            PageCount pages, Gpa gpa) {
  // Keeps the call and its arguments.
  asm volatile(""
               :
               : "r"(&zone), "r"(&pfn), "r"(&order), "r"(&pages), "r"(&gpa)
               : "memory");
}

}  // namespace
}  // namespace guestmm

int main() {
  using namespace guestmm;
  TinyZone zone(64, Order(4));
  zone.Allocate(0);  // splits the block at 48
  Look(*zone, Pfn(0x100352), Order(9), PageCount(12), Gpa(0x1000));
}
