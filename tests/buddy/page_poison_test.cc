// Free memory with real bytes in it: what is written there, what is found, and
// what every page of a guest holds after each step of a random program.

#include "guestmm/buddy/page_poison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/buddy/memory_hotplug.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::TestWithParam;
using ::testing::Values;

constexpr Order kPage{0};
constexpr Order kHuge = kPageblockOrder;
constexpr uint8_t kPoison = 0xaa;

// RAM, and an allocator that has all of it, in regions of so many pages.
class World {
 public:
  World(const PagePoisonOptions& options,
        const std::vector<uint64_t>& regions = {1024},
        PageAllocatorOptions allocator = {}) {
    GuestRamOptions ram = {.huge_pages = HugePages::kForbid};
    Pfn end(0);
    for (const uint64_t pages : regions) {
      ram.regions.push_back(
          {.gpa = ToGpa(end), .bytes = PageCount(pages).bytes()});
      end += PageCount(pages);
    }
    ram_ = GuestRam::Create(ram).value();
    poison_ = std::make_unique<PagePoison>(*ram_, options);
    if (allocator.memory.empty()) allocator.memory = {{Pfn(0), end}};
    allocator.min_free_kbytes = 0;
    allocator.poison = poison_.get();
    allocator_ = PageAllocator::Create(allocator).value();
  }

  GuestRam& ram() { return *ram_; }
  PagePoison& poison() { return *poison_; }
  PageAllocator& allocator() { return *allocator_; }

  Pfn Allocate(Order order, int cpu = 0) {
    const std::optional<Pfn> pfn = allocator_->Allocate(cpu, order);
    EXPECT_TRUE(pfn.has_value()) << order;
    return pfn.value_or(Pfn(0));
  }
  void Free(Pfn pfn, Order order, int cpu = 0) {
    allocator_->Free(cpu, pfn, order);
  }

  // A page's bytes.
  uint8_t* At(Pfn pfn) const {
    const auto bytes = ram_->Translate({.gpa = ToGpa(pfn), .bytes = kPageSize});
    return reinterpret_cast<uint8_t*>(bytes->bytes().data());
  }
  // By calls of memset, which ThreadSanitizer sees: of a constant size it would
  // be inlined.
  void Write(Pfn pfn, Order order, uint8_t value) const {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      const volatile size_t bytes = kPageSize;
      std::memset(At(pfn + PageCount(i)), value, bytes);
    }
  }
  bool Holds(Pfn pfn, Order order, uint8_t value) const {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      const uint8_t* const page = At(pfn + PageCount(i));
      if (std::count(page, page + kPageSize, value) != kPageSize) return false;
    }
    return true;
  }

  uint64_t ResidentBytes() const { return ram_->ResidentBytes().value(); }

  // Takes every page there is, one by one, and frees them again.
  void AllocateEverything() {
    Gfp gfp = kGfpUser;
    gfp.reserves = Reserves::kAll;
    std::vector<Pfn> pages;
    while (const std::optional<Pfn> pfn = allocator_->Allocate(0, kPage, gfp)) {
      pages.push_back(*pfn);
    }
    EXPECT_EQ(PageCount(pages.size()), allocator_->Counts().managed);
    for (const Pfn pfn : pages) Free(pfn, kPage);
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  }

 private:
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<PagePoison> poison_;
  std::unique_ptr<PageAllocator> allocator_;
};

constexpr PagePoisonOptions kPoisoned = {.mode = PagePoisonMode::kPoison};
constexpr PagePoisonOptions kZeroed = {.mode = PagePoisonMode::kInitOnFree};
constexpr PagePoisonOptions kCleared = {.init_on_alloc = true};

// What is written ------------------------------------------------------------

TEST(PagePoisonTest, OffTouchesNothing) {
  World world({});
  EXPECT_EQ(world.ResidentBytes(), 0u);
  world.AllocateEverything();
  const Pfn huge = world.Allocate(kHuge);
  world.Free(huge, kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, OffLeavesContents) {
  World world({});
  const Pfn pfn = world.Allocate(kHuge);
  world.Write(pfn, kHuge, 7);
  world.Free(pfn, kHuge);
  ASSERT_EQ(world.Allocate(kHuge), pfn);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 7));
}

TEST(PagePoisonTest, PoisonIsInEveryPageFromTheStart) {
  World world(kPoisoned);
  EXPECT_EQ(world.ResidentBytes(), world.ram().bytes());
  for (Pfn pfn(0); pfn < Pfn(1024); pfn += PageCount(1)) {
    ASSERT_TRUE(world.Holds(pfn, kPage, kPoison)) << pfn;
  }
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, FreshMemoryIsZeroWithoutAWrite) {
  World world(kZeroed);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 0));
}

TEST(PagePoisonTest, FreeFillsTheBlockAndNothingElse) {
  for (const PagePoisonMode mode :
       {PagePoisonMode::kPoison, PagePoisonMode::kInitOnFree}) {
    for (const Order order : {kPage, Order(3), kHuge}) {
      World world({.mode = mode}, {1024});
      std::vector<Pfn> blocks;
      while (const auto pfn = world.allocator().Allocate(0, order)) {
        blocks.push_back(*pfn);
        world.Write(*pfn, order, 7);
      }
      for (size_t i = 0; i < blocks.size(); i += 2)
        world.Free(blocks[i], order);
      const uint8_t fill = mode == PagePoisonMode::kPoison ? kPoison : 0;
      for (size_t i = 0; i < blocks.size(); ++i) {
        EXPECT_TRUE(world.Holds(blocks[i], order, i % 2 == 0 ? fill : 7))
            << order << ", block " << i;
      }
    }
  }
}

TEST(PagePoisonTest, InitOnFreeChecksNothing) {
  World world(kZeroed);
  const Pfn pfn = world.Allocate(kPage);
  world.Free(pfn, kPage);
  world.At(pfn)[100] = 1;
  ASSERT_EQ(world.Allocate(kPage), pfn);
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  EXPECT_EQ(world.At(pfn)[100], 1);
}

TEST(PagePoisonTest, InitOnAllocClearsTheBlock) {
  for (const Order order : {kPage, kHuge}) {
    World world(kCleared);
    const Pfn pfn = world.Allocate(order);
    world.Write(pfn, order, 7);
    world.Free(pfn, order);
    EXPECT_TRUE(world.Holds(pfn, order, 7)) << "freed";
    ASSERT_EQ(world.Allocate(order), pfn);
    EXPECT_TRUE(world.Holds(pfn, order, 0)) << "allocated";
  }
}

TEST(PagePoisonTest, InitOnAllocWithPoisonChecksFirst) {
  World world({.mode = PagePoisonMode::kPoison, .init_on_alloc = true});
  const Pfn pfn = world.Allocate(kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, 0));
  world.Write(pfn, kPage, 7);
  world.Free(pfn, kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, kPoison));
  world.At(pfn)[5] = 0;
  ASSERT_EQ(world.Allocate(kPage), pfn);
  EXPECT_TRUE(world.Holds(pfn, kPage, 0));
  EXPECT_THAT(world.poison().corruptions(),
              ElementsAre(PageCorruption{pfn, 5, 5, 0, false}));
}

// What is cleared when it is freed is not cleared again.
TEST(PagePoisonTest, InitOnAllocWithInitOnFreeWritesNothingMore) {
  World world({.mode = PagePoisonMode::kInitOnFree, .init_on_alloc = true});
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_EQ(world.ResidentBytes(), 0u);
  EXPECT_TRUE(world.Holds(pfn, kHuge, 0));
}

// What is found --------------------------------------------------------------

class WriteAfterFree : public TestWithParam<int> {
 protected:
  const Order order_{GetParam()};
  World world_{kPoisoned};
};
INSTANTIATE_TEST_SUITE_P(Orders, WriteAfterFree, Values(0, 9));

TEST_P(WriteAfterFree, IsFoundAtEveryPlace) {
  const uint64_t last_page = order_.pages().value() - 1;
  for (const uint64_t page : {uint64_t{0}, last_page / 2, last_page}) {
    World world(kPoisoned);
    const Pfn pfn = world.Allocate(order_);
    const Pfn written = pfn + PageCount(page);
    uint64_t found = 0;
    for (const uint32_t offset : {0u, 1u, 7u, 8u, 9u, 31u, 32u, 63u, 64u, 65u,
                                  2047u, 2048u, 4032u, 4087u, 4088u, 4095u}) {
      world.Free(pfn, order_);
      world.At(written)[offset] = 0x11;
      ASSERT_EQ(world.Allocate(order_), pfn);
      ASSERT_EQ(world.poison().corrupted_pages(), ++found) << offset;
      ASSERT_EQ(world.poison().corruptions().back(),
                (PageCorruption{written, offset, offset, 0x11, false}));
    }
  }
}

TEST_P(WriteAfterFree, OfOneBitIsToldApart) {
  const Pfn pfn = world_.Allocate(order_);
  for (int bit = 0; bit < 8; ++bit) {
    world_.Free(pfn, order_);
    world_.At(pfn)[9] ^= static_cast<uint8_t>(1 << bit);
    ASSERT_EQ(world_.Allocate(order_), pfn);
    const auto found = static_cast<uint8_t>(kPoison ^ 1 << bit);
    EXPECT_EQ(world_.poison().corruptions().back(),
              (PageCorruption{pfn, 9, 9, found, true}));
  }
  EXPECT_EQ(world_.poison().corrupted_pages(), 8u);
}

TEST_P(WriteAfterFree, OfTwoBitsIsNotASingleBit) {
  const Pfn pfn = world_.Allocate(order_);
  world_.Free(pfn, order_);
  world_.At(pfn)[9] ^= 0x81;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  world_.Free(pfn, order_);
  // A bit in one byte, and one far away.
  world_.At(pfn)[9] ^= 1;
  world_.At(pfn)[4000] ^= 1;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_THAT(world_.poison().corruptions(),
              ElementsAre(PageCorruption{pfn, 9, 9, 0x2b, false},
                          PageCorruption{pfn, 9, 4000, 0xab, false}));
}

TEST_P(WriteAfterFree, IsLeftToItsNewOwnerAndGoneAfterTheNextFree) {
  const Pfn pfn = world_.Allocate(order_);
  world_.Free(pfn, order_);
  world_.At(pfn)[0] = 1;
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_EQ(world_.At(pfn)[0], 1);
  EXPECT_EQ(world_.poison().corrupted_pages(), 1u);
  world_.Free(pfn, order_);
  ASSERT_EQ(world_.Allocate(order_), pfn);
  EXPECT_EQ(world_.poison().corrupted_pages(), 1u);
  EXPECT_EQ(world_.allocator().CheckInvariants(), absl::OkStatus());
}

TEST(PagePoisonTest, EachPageIsOneCorruptionAndTheFirstAreRemembered) {
  World world(kPoisoned);
  const Pfn pfn = world.Allocate(kHuge);
  world.Free(pfn, kHuge);
  for (uint64_t i = 0; i < 100; ++i) {
    std::memset(world.At(pfn + PageCount(3 * i)) + i, 0, 10);
  }
  ASSERT_EQ(world.Allocate(kHuge), pfn);
  EXPECT_EQ(world.poison().corrupted_pages(), 100u);
  const std::vector<PageCorruption> found = world.poison().corruptions();
  ASSERT_EQ(found.size(), PagePoison::kMostRemembered);
  for (uint32_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i],
              (PageCorruption{pfn + PageCount(3 * i), i, i + 9, 0, false}));
  }
}

TEST(PagePoisonTest, ACorruptionReadsAsText) {
  const auto text = [](const PageCorruption& corruption) {
    std::ostringstream os;
    os << corruption;
    return os.str();
  };
  EXPECT_EQ(text({Pfn(0x1f), 4, 9, 0, false}),
            "page poison: memory corruption at pfn 0x1f, bytes 4 to 9: found "
            "0x00 first");
  EXPECT_EQ(text({Pfn(2), 4, 4, 0xab, true}),
            "page poison: single bit error at pfn 0x2, bytes 4 to 4: found "
            "0xab first");
}

// On its way through the allocator -------------------------------------------

TEST(PagePoisonTest, HoldsOnPerCpuListsAndAcrossThem) {
  World world(kPoisoned, {1024},
              {.cpus = 2,
               .per_cpu_lists = Linux::k61,
               .per_cpu_limits = PerCpuLimits{.batch = 4, .high = 4096}});
  for (const Order order : {kPage, Order(2), kHuge}) {
    const Pfn pfn = world.Allocate(order, /*cpu=*/0);
    world.Write(pfn, order, 7);
    world.Free(pfn, order, /*cpu=*/1);
    ASSERT_EQ(world.allocator().pages().Get(pfn).state, PageState::kCached);
    EXPECT_TRUE(world.Holds(pfn, order, kPoison));
    // Corrupted there, and given out from there.
    world.At(pfn)[1] = 0;
    ASSERT_EQ(world.Allocate(order, /*cpu=*/1), pfn);
    EXPECT_EQ(world.poison().corruptions().back().pfn, pfn);
    world.Free(pfn, order, /*cpu=*/1);
    world.allocator().DrainPerCpuPages();
    EXPECT_TRUE(world.Holds(pfn, order, kPoison));
  }
  EXPECT_EQ(world.poison().corrupted_pages(), 3u);
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 3u);
}

TEST(PagePoisonTest, APinnedBlockIsFilledWhenItsLastPinGoes) {
  for (const Order order : {kPage, kHuge}) {
    World world(kPoisoned);
    const Pfn pfn = world.Allocate(order);
    world.Write(pfn, order, 7);
    world.allocator().Pin(pfn);
    world.allocator().Pin(pfn);
    world.Free(pfn, order);
    EXPECT_TRUE(world.Holds(pfn, order, 7)) << "freed by its owner";
    world.Write(pfn, order, 8);
    world.allocator().Unpin(/*cpu=*/0, pfn);
    EXPECT_TRUE(world.Holds(pfn, order, 8)) << "one pin left";
    world.allocator().Unpin(/*cpu=*/0, pfn);
    EXPECT_TRUE(world.Holds(pfn, order, kPoison)) << "no pin left";
    ASSERT_EQ(world.Allocate(order), pfn);
    EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  }
}

TEST(PagePoisonTest, ABlockWhosePinsWentFirstIsFilledByItsOwnersFree) {
  World world(kPoisoned);
  const Pfn pfn = world.Allocate(kPage);
  world.allocator().Pin(pfn);
  world.Write(pfn, kPage, 7);
  world.allocator().Unpin(/*cpu=*/0, pfn);
  EXPECT_TRUE(world.Holds(pfn, kPage, 7));
  world.Free(pfn, kPage);
  EXPECT_TRUE(world.Holds(pfn, kPage, kPoison));
}

TEST(PagePoisonTest, SeesBlocksThatReclaimAndTheSlowPathGive) {
  // All of it below the low watermark, so that no request is served at once.
  World world(kPoisoned);
  class Cache final : public Reclaimer {
   public:
    Cache(World& world, Pfn pfn) : world_(world), pfn_(pfn) {}
    PageCount Reclaim(int cpu, PageCount) override {
      if (!pfn_) return PageCount(0);
      world_.Free(*std::exchange(pfn_, std::nullopt), kPage, cpu);
      return PageCount(1);
    }

   private:
    World& world_;
    std::optional<Pfn> pfn_;
  };
  std::vector<Pfn> pages;
  while (const auto pfn = world.allocator().Allocate(0, kPage)) {
    world.Write(*pfn, kPage, 7);
    pages.push_back(*pfn);
  }
  Cache cache(world, pages.back());
  world.allocator().AddReclaimer(cache);
  EXPECT_EQ(world.Allocate(kPage), pages.back());
  EXPECT_TRUE(world.Holds(pages.back(), kPage, kPoison));
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  world.allocator().RemoveReclaimer(cache);
}

TEST(PagePoisonTest, BlocksReachAcrossRegions) {
  World world(kPoisoned, {3, 600, 421});
  const Pfn first = world.Allocate(kHuge);
  const Pfn second = world.Allocate(kHuge);
  for (const Pfn pfn : {first, second}) {
    world.Write(pfn, kHuge, 7);
    world.Free(pfn, kHuge);
    EXPECT_TRUE(world.Holds(pfn, kHuge, kPoison));
  }
  // The last page of one region and the first of the next.
  for (const uint64_t pfn : {2, 3, 602, 603}) world.At(Pfn(pfn))[0] = 0;
  world.Allocate(Order(10));
  EXPECT_THAT(world.poison().corruptions(),
              ElementsAre(PageCorruption{Pfn(2), 0, 0, 0, false},
                          PageCorruption{Pfn(3), 0, 0, 0, false},
                          PageCorruption{Pfn(602), 0, 0, 0, false},
                          PageCorruption{Pfn(603), 0, 0, 0, false}));
}

// Memory that comes ----------------------------------------------------------

TEST(PagePoisonTest, MemoryThatIsNotInRamIsRefused) {
  const auto ram =
      GuestRam::Create({.regions = {{.gpa = Gpa(0), .bytes = kMiB}}}).value();
  for (const PagePoisonOptions& options : {kPoisoned, kZeroed, kCleared}) {
    PagePoison poison(*ram, options);
    const auto allocator = PageAllocator::Create(
        {.memory = {{Pfn(0), Pfn(257)}}, .poison = &poison});
    EXPECT_EQ(allocator.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(allocator.status().message()),
                HasSubstr("pfn 0x100 is not in the guest RAM"));
  }
}

PageAllocatorOptions WithRoomToGrow() {
  return {.memory = {{Pfn(0), Pfn(1024)}},
          .hotplug_end = Pfn(2048),
          .section_order = kMaxOrder};
}

TEST(PagePoisonTest, MemoryIsFilledEachTimeItIsOnlined) {
  World world(kPoisoned, {2048}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  EXPECT_EQ(world.ResidentBytes(), PageCount(1024).bytes());
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), PageCount(1024).bytes());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), PageCount(2048).bytes());
  world.AllocateEverything();

  // What is written to it while it is offline is no one's business.
  ASSERT_EQ(hotplug.Offline(added), absl::OkStatus());
  world.Write(Pfn(1024), Order(10), 7);
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  world.AllocateEverything();
  EXPECT_EQ(world.poison().corrupted_pages(), 0u);
}

TEST(PagePoisonTest, MemoryThatIsOnlinedAgainIsZeroWithoutAWrite) {
  World world(kZeroed, {2048}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_EQ(world.ResidentBytes(), 0u);
  const Pfn pfn = world.Allocate(Order(10));
  ASSERT_EQ(pfn, added.start);
  world.Write(pfn, Order(10), 7);
  world.Free(pfn, Order(10));
  ASSERT_EQ(hotplug.Offline(added), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  EXPECT_TRUE(world.Holds(world.Allocate(Order(10)), Order(10), 0));
}

using PagePoisonDeathTest = ::testing::Test;

TEST(PagePoisonDeathTest, OnliningMemoryThatIsNotInRamEndsTheProcess) {
  World world(kPoisoned, {1024}, WithRoomToGrow());
  MemoryHotplug hotplug(world.allocator());
  const PfnRange added = {Pfn(1024), Pfn(2048)};
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  EXPECT_DEATH(hotplug.Online(added, ZoneType::kMovable).IgnoreError(),
               "pfn 0x400 is not in the guest RAM");
}

TEST(PagePoisonDeathTest, ADoubleFreeEndsTheProcessAndIsNotFilled) {
  World world(kPoisoned);
  const Pfn pfn = world.Allocate(kHuge);
  EXPECT_DEATH(
      {
        world.Free(pfn, kHuge);
        world.Free(pfn, kHuge);
      },
      "free of");
  EXPECT_DEATH(world.Free(pfn, kPage), "free of");
}

// A random program and a naive shadow ----------------------------------------

struct ProgramOptions {
  const char* name;
  PagePoisonOptions poison;
  Linux per_cpu_lists;
};

std::ostream& operator<<(std::ostream& os, const ProgramOptions& options) {
  return os << options.name;
}

class PagePoisonProgram : public TestWithParam<ProgramOptions> {
 protected:
  static constexpr uint64_t kPages = 128;
  static constexpr int kCpus = 2;

  struct Block {
    Pfn pfn;
    Order order;
    int pins = 0;
    bool freed = false;
  };

  PagePoisonProgram()
      : world_(GetParam().poison, {45, kPages - 45},
               {.cpus = kCpus,
                .max_order = Order(6),
                .pageblock_order = Order(4),
                .per_cpu_lists = GetParam().per_cpu_lists,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 9}}),
        shadow_(kPages * kPageSize, Poisons() ? kPoison : uint8_t{0}) {}

  static bool Poisons() {
    return GetParam().poison.mode == PagePoisonMode::kPoison;
  }
  uint8_t* Shadow(Pfn pfn) { return &shadow_[pfn.value() * kPageSize]; }

  void Write(const Block& block) {
    const auto value = static_cast<uint8_t>(random_.Next());
    world_.Write(block.pfn, block.order, value);
    std::memset(Shadow(block.pfn), value, block.order.bytes());
  }
  // Anywhere, whosever it is.
  void WriteAnywhere() {
    const Pfn pfn(random_.Below(kPages));
    const uint64_t offset = random_.Below(kPageSize);
    uint8_t value = static_cast<uint8_t>(random_.Next());
    if (random_.OneIn(2)) {
      value =
          static_cast<uint8_t>(Shadow(pfn)[offset] ^ 1U << random_.Below(8));
    }
    world_.At(pfn)[offset] = value;
    Shadow(pfn)[offset] = value;
  }

  void Allocate() {
    const Order order(static_cast<int>(random_.Below(7)));
    const auto pfn = world_.allocator().Allocate(Cpu(), order);
    if (!pfn) return;
    blocks_.push_back({*pfn, order});
    if (Poisons()) ExpectFound(*pfn, order);
    if (GetParam().poison.init_on_alloc &&
        GetParam().poison.mode != PagePoisonMode::kInitOnFree) {
      std::memset(Shadow(*pfn), 0, order.bytes());
    }
  }
  // Adds to what must have been found.
  void ExpectFound(Pfn pfn, Order order) {
    for (const Pfn end = pfn + order.pages(); pfn < end; pfn += PageCount(1)) {
      PageCorruption corruption = {.pfn = pfn};
      int bytes = 0;
      int bits = 0;
      for (uint32_t i = 0; i < kPageSize; ++i) {
        const uint8_t byte = Shadow(pfn)[i];
        if (byte == kPoison) continue;
        if (bytes++ == 0) {
          corruption.first = i;
          corruption.found = byte;
        }
        corruption.last = i;
        for (int bit = 0; bit < 8; ++bit) bits += (byte ^ kPoison) >> bit & 1;
      }
      if (bytes == 0) continue;
      corruption.single_bit = bits == 1;
      single_bits_ += bits == 1 ? 1 : 0;
      ++expected_pages_;
      if (expected_.size() < PagePoison::kMostRemembered) {
        expected_.push_back(corruption);
      }
    }
  }
  void Free(Block& block) {
    block.freed = true;
    world_.Free(block.pfn, block.order, Cpu());
    MaybeGone(block);
  }
  void Pin(Block& block) {
    if (block.freed) return;
    ++block.pins;
    world_.allocator().Pin(block.pfn);
  }
  void Unpin(Block& block) {
    if (block.pins == 0) return;
    --block.pins;
    world_.allocator().Unpin(Cpu(), block.pfn);
    MaybeGone(block);
  }
  void MaybeGone(Block& block) {
    if (!block.freed || block.pins > 0) return;
    if (GetParam().poison.mode != PagePoisonMode::kOff) {
      std::memset(Shadow(block.pfn), Poisons() ? kPoison : 0,
                  block.order.bytes());
    }
    std::swap(block, blocks_.back());
    blocks_.pop_back();
  }

  void Step() {
    if (random_.OneIn(20)) return world_.allocator().DrainPerCpuPages();
    if (random_.OneIn(10)) return WriteAnywhere();
    if (blocks_.empty() || random_.OneIn(3)) return Allocate();
    Block& block = blocks_[random_.Below(blocks_.size())];
    switch (random_.Below(5)) {
      case 0:
        return Write(block);
      case 1:
        return Pin(block);
      case 2:
        return Unpin(block);
      default:
        if (!block.freed) Free(block);
    }
  }

  void Compare() {
    for (Pfn pfn(0); pfn < Pfn(kPages); pfn += PageCount(1)) {
      ASSERT_EQ(std::memcmp(world_.At(pfn), Shadow(pfn), kPageSize), 0) << pfn;
    }
    ASSERT_EQ(world_.poison().corrupted_pages(), expected_pages_);
    ASSERT_EQ(world_.poison().corruptions(), expected_);
    ASSERT_EQ(world_.allocator().CheckInvariants(), absl::OkStatus());
  }

  int Cpu() { return static_cast<int>(random_.Below(kCpus)); }

  Random random_{1};
  World world_;
  std::vector<uint8_t> shadow_;
  std::vector<Block> blocks_;
  std::vector<PageCorruption> expected_;
  uint64_t expected_pages_ = 0;
  int single_bits_ = 0;
};

TEST_P(PagePoisonProgram, EveryByteIsAsInTheShadow) {
  for (int step = 0; step < 3000; ++step) {
    Step();
    Compare();
    if (HasFatalFailure()) {
      FAIL() << "step " << step;
    }
  }
  if (Poisons()) {
    EXPECT_GT(expected_pages_, 30u);
    EXPECT_GT(single_bits_, 5);
  } else {
    EXPECT_EQ(expected_pages_, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, PagePoisonProgram,
    Values(ProgramOptions{"Off", {}, Linux::k53},
           ProgramOptions{"Poison", kPoisoned, Linux::k53},
           ProgramOptions{"PoisonOf6_1", kPoisoned, Linux::k61},
           ProgramOptions{"InitOnFree", kZeroed, Linux::k53},
           ProgramOptions{"InitOnAlloc", kCleared, Linux::k61},
           ProgramOptions{
               "PoisonAndInitOnAlloc",
               {.mode = PagePoisonMode::kPoison, .init_on_alloc = true},
               Linux::k61},
           ProgramOptions{
               "InitOnFreeAndInitOnAlloc",
               {.mode = PagePoisonMode::kInitOnFree, .init_on_alloc = true},
               Linux::k53}),
    [](const auto& param) { return std::string(param.param.name); });

// Threads --------------------------------------------------------------------

// Blocks on their way from one thread to another.
class Mailbox {
 public:
  void Put(Pfn pfn, Order order) {
    LockHolder hold(lock_);
    blocks_.emplace_back(pfn, order);
  }
  std::optional<std::pair<Pfn, Order>> Take() {
    LockHolder hold(lock_);
    if (blocks_.empty()) return std::nullopt;
    const std::pair<Pfn, Order> block = blocks_.back();
    blocks_.pop_back();
    return block;
  }

 private:
  Mutex lock_;
  std::vector<std::pair<Pfn, Order>> blocks_ ABSL_GUARDED_BY(lock_);
};

// vCPUs write to what they have, and pass every fourth block to a device, which
// writes to it under a pin, whatever its owner does meanwhile.
using PagePoisonThreadsTest = TestWithParam<PagePoisonMode>;
INSTANTIATE_TEST_SUITE_P(Modes, PagePoisonThreadsTest,
                         Values(PagePoisonMode::kOff, PagePoisonMode::kPoison));

TEST_P(PagePoisonThreadsTest,
       NoBlockIsFilledWhileItIsUsedNorHandedOutUnfilled) {
  constexpr int kCpus = 3;
  constexpr int kDevice = kCpus - 1;
  constexpr int kSteps = 5000;
  World world(
      {.mode = GetParam()}, {512},
      {.cpus = kCpus, .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 9}});
  Mailbox to_device;
  std::atomic<int> running{kDevice};

  const auto vcpu = [&](int cpu) {
    Random random(static_cast<uint64_t>(cpu) + 1);
    for (int i = 0; i < kSteps; ++i) {
      const Order order(random.OneIn(4) ? static_cast<int>(random.Below(6))
                                        : 0);
      const auto pfn = world.allocator().Allocate(cpu, order);
      if (!pfn) continue;
      const auto value = static_cast<uint8_t>(random.Next());
      world.Write(*pfn, order, value);
      const bool kept = world.Holds(*pfn, order, value);
      EXPECT_TRUE(kept) << *pfn;
      if (random.OneIn(4)) {
        world.allocator().Pin(*pfn);
        to_device.Put(*pfn, order);
      }
      world.Free(*pfn, order, cpu);
    }
    running.fetch_sub(1);
  };
  const auto device = [&] {
    while (true) {
      const bool last = running.load() == 0;
      const auto block = to_device.Take();
      if (block) {
        world.Write(block->first, block->second, 7);
        world.allocator().Unpin(kDevice, block->first);
      } else if (last) {
        return;
      } else {
        std::this_thread::yield();
      }
    }
  };
  std::vector<std::thread> threads;
  for (int cpu = 0; cpu < kDevice; ++cpu) threads.emplace_back(vcpu, cpu);
  threads.emplace_back(device);
  for (std::thread& thread : threads) thread.join();

  EXPECT_THAT(world.poison().corruptions(), IsEmpty());
  for (Pfn pfn(0); pfn < Pfn(512); pfn += PageCount(1)) {
    if (GetParam() == PagePoisonMode::kOff) break;
    EXPECT_TRUE(world.Holds(pfn, kPage, kPoison)) << pfn;
  }
  EXPECT_EQ(world.allocator().CheckInvariants(), absl::OkStatus());
}

// Nothing but the pin tells the owner that the device is done; what the two
// write must not race all the same (a finding of ThreadSanitizer's).
TEST_P(PagePoisonThreadsTest, WhatADeviceWroteComesBeforeTheFreeThatSeesNoPin) {
  for (const Order order : {kPage, kHuge}) {
    World world({.mode = GetParam()});
    const Pfn pfn = world.Allocate(order);
    world.allocator().Pin(pfn);
    std::thread device([&] {
      world.Write(pfn, order, 7);
      world.allocator().Unpin(/*cpu=*/0, pfn);
    });
    while (world.allocator().pages().pins(pfn) > 0) std::this_thread::yield();
    world.Free(pfn, order);
    EXPECT_EQ(world.Allocate(order), pfn);
    world.Write(pfn, order, 8);
    device.join();
    EXPECT_TRUE(world.Holds(pfn, order, 8));
    EXPECT_EQ(world.poison().corrupted_pages(), 0u);
  }
}

TEST(PagePoisonTest, CorruptionsFoundAtOnceAreAllCounted) {
  constexpr int kCpus = 3;
  constexpr int kBlocks = 100;
  World world(kPoisoned, {1024}, {.cpus = kCpus});
  for (Pfn pfn(0); pfn < Pfn(1024); pfn += PageCount(1)) world.At(pfn)[8] = 1;
  std::vector<std::thread> threads;
  for (int cpu = 0; cpu < kCpus; ++cpu) {
    threads.emplace_back([&world, cpu] {
      for (int i = 0; i < kBlocks; ++i) world.Allocate(Order(1), cpu);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(world.poison().corrupted_pages(), 2u * kCpus * kBlocks);
  EXPECT_EQ(world.poison().corruptions().size(), PagePoison::kMostRemembered);
}

}  // namespace
}  // namespace guestmm
