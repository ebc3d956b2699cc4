#ifndef GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_
#define GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_

// Operations on an allocator, as values that print as C++:
//
//   const Program program = {Alloc{0, 3}, Free{0, 0}, Drain{}};
//
// The same programs serve random, exhaustive, fuzz and replay tests; the output
// of a failing test can be pasted into a regression test. Every program is
// valid in every world: indices wrap around, and an operation without an
// operand has no effect.

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/gfp.h"

namespace guestmm::buddy {

// The gfp values of requests, at least one of each kind. In addition to
// gfp.h's:
inline constexpr Gfp kGfpHigh = {.reserves = Reserves::kHigh};
inline constexpr Gfp kGfpMemalloc = {.reserves = Reserves::kAll,
                                     .may_reclaim = false};
// Prints a name of C++.
struct NamedGfp {
  const char* name;
  Gfp gfp;
};
std::span<const NamedGfp> AllGfps();

// Allocates; the block becomes the last live block.
struct Alloc {
  int cpu = 0;
  int order = 0;
  Gfp gfp = kGfpUser;  // one of AllGfps; its node wraps around
};

// Frees the `slot`th live block, counted from the oldest.
struct Free {
  int cpu = 0;
  size_t slot = 0;
};

// Drains all per-CPU lists.
struct Drain {};

// Refreshes the per-CPU lists of `cpu`, as once a second.
struct Refresh {
  int cpu = 0;
};

// Isolates the `nth` free block: by zone, order, position on its list.
struct Isolate {
  size_t nth = 0;
};

// Returns the `slot`th isolated block, counted from the oldest.
struct Return {
  size_t slot = 0;
  ReturnTo to = ReturnTo::kItsPlace;
};

// Marks the `nth` free block, counted as in Isolate, as reported, and rotates
// it to the head of its list.
struct Mark {
  size_t nth = 0;
};
struct Rotate {
  size_t nth = 0;
};

// Pins the `slot`th live block. Once freed it is no longer live, but stays
// allocated until it is unpinned.
struct Pin {
  size_t slot = 0;
};

// Undoes the `nth` pin, counted from the oldest.
struct Unpin {
  int cpu = 0;
  size_t nth = 0;
};

// Isolates the pageblocks of the `nth` whole section of the world's address
// space, if one zone contains all of it and they are not isolated.
struct IsolateRange {
  size_t section = 0;
};

// Restores the `nth` isolated section.
struct RestoreRange {
  size_t nth = 0;
};

// Offlines a section and onlines it to Normal or Movable; adds it first if it
// was never present. No effect if it is isolated as above.
struct TakeOffline {
  size_t section = 0;
};
struct BringOnline {
  size_t section = 0;
  bool movable = false;
};

using Operation = std::variant<Alloc, Free, Drain, Refresh, Isolate, Return,
                               Mark, Rotate, Pin, Unpin, IsolateRange,
                               RestoreRange, TakeOffline, BringOnline>;
using Program = std::vector<Operation>;

// Prints C++: "Alloc{0, 3}", "{Alloc{0, 3, kGfpKernel}, Drain{}}".
std::string ToCode(const Operation& operation);
std::string ToCode(const Program& program);

// An allocator to run programs on, small enough to check after each step.
struct BuddyWorld {
  // The name of its constant below.
  const char* name;
  PageAllocatorOptions options;
  // The lowest order that the observer is notified of; it is also notified of
  // blocks taken.
  Order observed_from;
  TakenBlocks taken = TakenBlocks::kTell;
  // What exhaustive tests request, and whether they pin; mark, rotate, and
  // return to the tail.
  std::vector<Gfp> gfps = {kGfpUser};
  bool pins = false;
  bool reports = false;
};

// One zone of 16 pages; per-CPU lists that cache nothing.
extern const BuddyWorld kBareWorld;
// As above, with one vCPU's list: batch 2, high 3.
extern const BuddyWorld kCachedWorld;
// Four pageblocks of four pages, and one vCPU's lists of 6.12, whose high mark
// is 2 to 6 pages.
extern const BuddyWorld kTiny612World;
// 64 pages, two vCPUs, and a min watermark of 8 pages.
extern const BuddyWorld kWatermarkWorld;
// Memory with holes and unaligned ends, blocks of at most 8 pages, two vCPUs.
extern const BuddyWorld kHolesWorld;
// 27 pages on either side of the boundary between DMA32 and Normal.
extern const BuddyWorld kTwoZonesWorld;
// 16 pages in four pageblocks, and all request types.
extern const BuddyWorld kTypesWorld;
// Four free blocks on one list, to be marked, rotated, and returned to either
// end.
extern const BuddyWorld kReportingWorld;
// Pageblocks of eight pages with unaligned ends, in Normal and a little DMA32.
extern const BuddyWorld kStealingWorld;
// DMA32, Normal and Movable, each with a lowmem_reserve.
extern const BuddyWorld kReserveWorld;
// Two nodes with a vCPU each; node 0 has DMA32 and Normal. At their boundary
// two pageblocks are buddies.
extern const BuddyWorld kTwoNodesWorld;
// The per-CPU lists and the placement of Linux 6.1, and of 6.12.
extern const BuddyWorld kLinux61World;
extern const BuddyWorld kLinux612World;
// Page shuffle.
extern const BuddyWorld kShuffledWorld;
// Three of four sections of 16 pages are present, the last in Movable.
extern const BuddyWorld kHotplugWorld;
extern const BuddyWorld kHotplug61World;
extern const BuddyWorld kHotplug612World;
// Two sections of 8 pages, for exhaustive hotplug programs.
extern const BuddyWorld kTinyHotplugWorld;

std::vector<const BuddyWorld*> AllBuddyWorlds();

// A program of `length` operations: phases with more allocations alternate with
// phases with more frees, so that memory fills and empties.
Program RandomProgram(Random& random, size_t length);

// Decodes four bytes per operation; any bytes are a program.
Program ProgramFromBytes(std::span<const uint8_t> bytes);

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_
