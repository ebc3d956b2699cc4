// The reporter while memory is removed, in virtual time, where a waiting caller
// runs the event loop.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guestmm/buddy/free_block_observer.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::reporter_hotplug_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Blocks of 4 pages that cannot merge; 4 of them are a section.
constexpr Order kSmall(2);
constexpr PfnRange kFirstSection = {Pfn(0), Pfn(16)};
constexpr PfnRange kSecondSection = {Pfn(16), Pfn(32)};

// Two sections and a page; 4 marks start a pass and fill a report.
WorldOptions TwoSections() {
  return {.memory = {BlocksFrom(Pfn(0), 8, kSmall)},
          .v12 = {.order = kSmall, .threshold = 4, .capacity = 4},
          .max_order = kSmall,
          .section_order = Order(4)};
}

// The first section is with the host; the second is in use.
struct InFlight : ReportingWorld {
  explicit InFlight(std::optional<Nanoseconds> report_time)
      : ReportingWorld([&] {
          WorldOptions options = TwoSections();
          options.report_time = report_time;
          return options;
        }()) {
    blocks = TakeAll(kSmall);
    Free(std::span(blocks).first(4), kSmall);
    EXPECT_TRUE(time.WaitUntil([&] { return device->outstanding(); }));
    EXPECT_EQ(allocator->Counts().isolated, kFirstSection.pages());
  }

  std::vector<Pfn> blocks;
};

TEST(ReporterHotplugTest, OfflineWaitsForTheBatchInFlight) {
  InFlight world(Nanoseconds(1000));
  EXPECT_EQ(world.hotplug.Offline(kFirstSection), absl::OkStatus());
  EXPECT_EQ(world.time.Now(), Nanoseconds(1000));
  EXPECT_FALSE(world.device->outstanding());
  EXPECT_EQ(world.hotplug.StateOf(Pfn(0)), "offline");
  EXPECT_EQ(world.reporter->counters().reported_blocks, 4u);
  world.Settle();
}

// Offlining and the rest of the pass do not delay each other.
TEST(ReporterHotplugTest, OfflineWaitsForNoMoreThanItsOwnBlocks) {
  WorldOptions options = TwoSections();
  options.v12.capacity = 2;
  ReportingWorld world(options);
  world.Free(world.TakeAll(kSmall), kSmall);
  ASSERT_TRUE(
      world.time.WaitUntil([&] { return world.device->outstanding(); }));
  // From now on its other two blocks, which are marked, are refused to the
  // pass.
  EXPECT_EQ(world.hotplug.Offline(kFirstSection), absl::OkStatus());
  world.Settle();
  EXPECT_THAT(world.device->reports(), SizeIs(3));
  EXPECT_THAT(world.device->reported(), SizeIs(6));
}

TEST(ReporterHotplugTest, ARefusedOfflineLeavesReportingAsItWas) {
  ReportingWorld world(TwoSections());
  const std::vector<Pfn> blocks = world.TakeAll(kSmall);
  world.Free(std::span(blocks).first(3), kSmall);
  const absl::Status status = world.hotplug.Offline(kFirstSection);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pfn 0xc is in use"));
  EXPECT_EQ(world.marked(), 3u);
  world.ExpectInvariants();
  world.Free(blocks[3], kSmall);
  world.Settle();
  EXPECT_THAT(world.device->reports(), ElementsAre(SizeIs(4)));
}

// Its blocks are returned when the host is done, as without the attempt.
TEST(ReporterHotplugTest, OfflineIsRefusedWhereTheHostDoesNotAnswer) {
  InFlight world(std::nullopt);
  const absl::Status status = world.hotplug.Offline(kFirstSection);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("pfn 0x0 is isolated for the host, which does not "
                        "return it"));
  world.device->End();
  world.Settle();
  EXPECT_EQ(world.reporter->counters().reported_blocks, 4u);
  EXPECT_EQ(world.allocator->Counts().offlining, PageCount(0));
  // Once they were allocated and freed again, they are reported again.
  world.Free(world.TakeAll(kSmall), kSmall);
  world.Settle();
  world.device->End();
  world.Settle();
  EXPECT_EQ(world.reporter->counters().reported_blocks, 8u);
}

TEST(ReporterHotplugTest, AnotherOperationIsRefusedWhileOneWaits) {
  InFlight world(Nanoseconds(1000));
  absl::Status other;
  Work work([&] { other = world.hotplug.Offline(kSecondSection); });
  world.time.Queue(work, Nanoseconds(1));
  EXPECT_EQ(world.hotplug.Offline(kFirstSection), absl::OkStatus());
  EXPECT_EQ(other.code(), absl::StatusCode::kUnavailable);
}

TEST(ReporterHotplugTest, AResetOfTheDeviceEndsTheWait) {
  InFlight world(std::nullopt);
  Work reset([&] { world.device->End(absl::UnavailableError("reset")); });
  world.time.Queue(reset, Nanoseconds(5));
  EXPECT_EQ(world.hotplug.Offline(kFirstSection), absl::OkStatus());
  world.Settle();
}

TEST(ReporterHotplugTest, TheReporterMayGoWhileMemoryComesAndGoes) {
  InFlight world(Nanoseconds(1000));
  world.reporter.reset();
  EXPECT_EQ(world.hotplug.Offline(kFirstSection), absl::OkStatus());
  EXPECT_EQ(world.hotplug.Online(kFirstSection, ZoneType::kMovable),
            absl::OkStatus());
  EXPECT_EQ(world.allocator->CheckInvariants(), absl::OkStatus());
}

// FreeBlockObserver::Wake may call the allocator, also for blocks that the
// per-CPU lists return when their zone's size changes.
TEST(ReporterHotplugTest, WakeIsCalledWithoutTheAllocatorsLocks) {
  class WakingObserver final : public FreeBlockObserver {
   public:
    explicit WakingObserver(PageAllocator& allocator) : allocator_(allocator) {}
    bool OnBlockFreed(Zone&, Pfn, Order) override { return true; }
    void Wake() override {
      ++wakes;
      allocator_.SetObserver(nullptr);
    }
    int wakes = 0;

   private:
    PageAllocator& allocator_;
  };
  constexpr Pfn kStart = ToPfn(Gpa(4 * kGiB));
  constexpr PageCount kSectionPages = kSectionOrder.pages();
  const auto allocator =
      PageAllocator::Create({.memory = {{kStart, kStart + kSectionPages}},
                             .hotplug_end = kStart + kSectionPages * 8})
          .value();
  const Pfn page = allocator->Allocate(0, Order(0)).value();
  allocator->Free(0, page, Order(0));
  ASSERT_GT(allocator->Counts().cached, PageCount(0));
  WakingObserver observer(*allocator);
  allocator->SetObserver(&observer);
  MemoryHotplug hotplug(*allocator);
  const PfnRange added = {kStart + kSectionPages, kStart + kSectionPages * 8};
  ASSERT_EQ(hotplug.Add(added, /*node=*/0), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kNormal), absl::OkStatus());
  EXPECT_GT(observer.wakes, 0);
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
}

}  // namespace
}  // namespace guestmm::reporter_hotplug_test
