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
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/frame/gfp.h"

namespace guestmm::buddy {

// What requests ask for, one or more of each kind. Beside gfp.h's:
inline constexpr Gfp kGfpHigh = {.reserves = Reserves::kHigh};
inline constexpr Gfp kGfpMemalloc = {.reserves = Reserves::kAll,
                                     .may_reclaim = false};
// By their names, as C++.
struct NamedGfp {
  const char* name;
  Gfp gfp;
};
std::span<const NamedGfp> AllGfps();

// Allocates; the block becomes the last live one.
struct Alloc {
  int cpu = 0;
  int order = 0;
  Gfp gfp = kGfpUser;  // one of AllGfps; its node wraps around
};

// Frees the `slot`th live block, counted from the one allocated first.
struct Free {
  int cpu = 0;
  size_t slot = 0;
};

// Gives all per-CPU pages to their zones.
struct Drain {};

// Isolates the `nth` free block: by zone, then order, then place on its list.
struct Isolate {
  size_t nth = 0;
};

// Returns the `slot`th isolated block, counted from the one isolated first.
struct Return {
  size_t slot = 0;
  ReturnTo to = ReturnTo::kItsPlace;
};

// Marks the `nth` free block, counted as Isolate does, as reported; makes it
// the first of its list.
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

// Undoes the `nth` pin, counted from the oldest there is.
struct Unpin {
  int cpu = 0;
  size_t nth = 0;
};

// Of the sections of the world's address space, those that are whole, the
// `nth`: isolates its pageblocks, if all of it is one zone's, and they are not
// isolated yet.
struct IsolateRange {
  size_t section = 0;
};

// Restores the `nth` isolated section.
struct RestoreRange {
  size_t nth = 0;
};

// Takes a section offline, and back online, to Normal or Movable; adds it
// before where it was never there. Not if it is isolated as above.
struct TakeOffline {
  size_t section = 0;
};
struct BringOnline {
  size_t section = 0;
  bool movable = false;
};

using Operation =
    std::variant<Alloc, Free, Drain, Isolate, Return, Mark, Rotate, Pin, Unpin,
                 IsolateRange, RestoreRange, TakeOffline, BringOnline>;
using Program = std::vector<Operation>;

// As C++: "Alloc{0, 3}", "{Alloc{0, 3, kGfpKernel}, Drain{}}".
std::string ToCode(const Operation& operation);
std::string ToCode(const Program& program);

// An allocator to run programs on, small enough to check after each step.
struct BuddyWorld {
  // The name of its constant below.
  const char* name;
  PageAllocatorOptions options;
  // The observer hears of blocks from this order on, and of blocks taken.
  Order observed_from;
  TakenBlocks taken = TakenBlocks::kTell;
  // What an exhaustive test asks for, and whether it pins; marks, rotates, and
  // returns to the tail.
  std::vector<Gfp> gfps = {kGfpUser};
  bool pins = false;
  bool reports = false;
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
// 16 pages in four pageblocks, and every type of request.
extern const BuddyWorld kTypesWorld;
// Four free blocks on one list, to be marked, rotated, and returned to either
// end.
extern const BuddyWorld kReportingWorld;
// Pageblocks of eight pages with crooked ends, in Normal and a little DMA32.
extern const BuddyWorld kStealingWorld;
// DMA32, Normal, and Movable, each with something to keep from the next.
extern const BuddyWorld kReserveWorld;
// Two nodes, one of which has DMA32 and Normal, with a vCPU on each. Where they
// meet two pageblocks are buddies.
extern const BuddyWorld kTwoNodesWorld;
// The per-CPU lists and the placement of Linux 6.1.
extern const BuddyWorld kLinux61World;
// Page shuffle.
extern const BuddyWorld kShuffledWorld;
// Three of four sections of 16 pages are there, the last in Movable.
extern const BuddyWorld kHotplugWorld;
extern const BuddyWorld kHotplug61World;
// Two sections of 8 pages, for every program of hotplug.
extern const BuddyWorld kTinyHotplugWorld;

std::vector<const BuddyWorld*> AllBuddyWorlds();

// `length` operations, now more allocations, now more frees, so that memory
// fills and empties.
Program RandomProgram(Random& random, size_t length);

// Four bytes an operation; any bytes are a program.
Program ProgramFromBytes(std::span<const uint8_t> bytes);

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_PROGRAM_H_
