#ifndef GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_
#define GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_

// What a test does to an allocator, as values that print as C++:
//
//   const Program program = {Alloc{0, 3}, Free{0, 0}, Drain{}};
//
// The same programs serve random, exhaustive, fuzz and replay tests; what a
// failing test prints can be pasted into a named regression test. Every program
// means something in every world: numbers wrap around what there is, and an
// operation that finds nothing to work on does nothing.

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::buddy {

// Allocates; the block becomes the last live one.
struct Alloc {
  int cpu = 0;
  int order = 0;
  bool operator==(const Alloc&) const = default;
};

// Frees the `slot`th live block, counted from the one allocated first.
struct Free {
  int cpu = 0;
  size_t slot = 0;
  bool operator==(const Free&) const = default;
};

// Gives all per-CPU pages to their zones.
struct Drain {
  bool operator==(const Drain&) const = default;
};

// Isolates the `nth` free block: by zone, then order, then place on its list.
struct Isolate {
  size_t nth = 0;
  bool operator==(const Isolate&) const = default;
};

// Returns the `slot`th isolated block, counted from the one isolated first.
struct Return {
  size_t slot = 0;
  bool operator==(const Return&) const = default;
};

using Operation = std::variant<Alloc, Free, Drain, Isolate, Return>;
using Program = std::vector<Operation>;

// As C++: "Alloc{0, 3}", "{Alloc{0, 3}, Drain{}}".
std::string ToCode(const Operation& operation);
std::string ToCode(const Program& program);

// An allocator to run programs on, small enough to check after each step.
struct BuddyWorld {
  // The name of its constant below.
  const char* name;
  PageAllocatorOptions options;
  // The observer hears of blocks from this order on.
  Order observed_from;
};

// One zone of 16 pages; per-CPU lists that hold nothing.
extern const BuddyWorld kBareWorld;
// The same, with one vCPU's list: batch 2, high 3.
extern const BuddyWorld kCachedWorld;
// 64 pages, two vCPUs, and a min watermark of 8 pages.
extern const BuddyWorld kWatermarkWorld;
// Memory with holes and crooked ends, blocks of at most 8 pages, two vCPUs.
extern const BuddyWorld kHolesWorld;
// 27 pages on either side of the border between DMA32 and Normal.
extern const BuddyWorld kTwoZonesWorld;

std::vector<const BuddyWorld*> AllBuddyWorlds();

// `length` operations, now more allocations, now more frees, so that memory
// fills and empties.
Program RandomProgram(Random& random, size_t length);

// Three bytes an operation; any bytes are a program.
Program ProgramFromBytes(std::span<const uint8_t> bytes);

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_
