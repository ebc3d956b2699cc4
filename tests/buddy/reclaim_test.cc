// The slow path of a request that finds no memory: it calls reclaimers, drains
// the per-CPU lists, and waits for pages in flight.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/frame/reclaimer.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::reclaim_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kDma = static_cast<size_t>(ZoneType::kDma);

// `pages` pages of DMA, no watermarks, no caching.
std::unique_ptr<PageAllocator> MakeTiny(uint64_t pages, int cpus = 1) {
  return MakeAllocator({.memory = {PagesFrom(Pfn(0), pages)},
                        .cpus = cpus,
                        .max_order = Order(6),
                        .section_order = Order(6),
                        .min_free_kbytes = 0,
                        .per_cpu_limits = kNoCache});
}

// Runs the test's callback, and records the number of wanted pages.
class FakeReclaimer final : public Reclaimer {
 public:
  explicit FakeReclaimer(std::function<PageCount(PageCount)> reclaim)
      : reclaim_(std::move(reclaim)) {}

  PageCount Reclaim(int cpu, PageCount wanted) override {
    cpu_ = cpu;
    asked_.push_back(wanted.value());
    return reclaim_(wanted);
  }

  InFlight in_flight() const override {
    return find_in_flight ? find_in_flight() : InFlight{};
  }

  std::function<InFlight()> find_in_flight;

  int cpu() const { return cpu_; }
  const std::vector<uint64_t>& asked() const { return asked_; }

 private:
  std::function<PageCount(PageCount)> reclaim_;
  int cpu_ = -1;
  std::vector<uint64_t> asked_;
};

// Frees single pages of `held`: as many as wanted, but at most `most` at a
// time.
FakeReclaimer PageCache(PageAllocator& allocator, std::vector<Pfn>& held,
                        uint64_t most) {
  return FakeReclaimer([&allocator, &held, most](PageCount wanted) {
    PageCount freed;
    while (freed < wanted && freed < PageCount(most) && !held.empty()) {
      allocator.Free(0, held.back(), Order(0));
      held.pop_back();
      freed += PageCount(1);
    }
    return freed;
  });
}

TEST(ReclaimTest, ReclaimersAreAskedInOrderForWhatIsStillWanted) {
  const auto allocator = MakeTiny(64, 2);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  const uint64_t failed_before = allocator->vmstat().alloc_failed;
  FakeReclaimer first = PageCache(*allocator, held, 20);
  FakeReclaimer second = PageCache(*allocator, held, 20);
  FakeReclaimer third = PageCache(*allocator, held, 20);
  allocator->AddReclaimer(first);
  allocator->AddReclaimer(second);
  allocator->AddReclaimer(third);
  EXPECT_TRUE(allocator->Allocate(1, Order(0)));
  EXPECT_EQ(first.cpu(), 1);
  // 32 pages are wanted at a time (SWAP_CLUSTER_MAX).
  EXPECT_THAT(first.asked(), ElementsAre(32));
  EXPECT_THAT(second.asked(), ElementsAre(12));
  EXPECT_THAT(third.asked(), IsEmpty());
  EXPECT_EQ(allocator->vmstat().pgsteal_direct, 32);
  EXPECT_EQ(allocator->vmstat().alloc_failed, failed_before);
  ExpectInvariants(*allocator);
}

TEST(ReclaimTest, ForALargerBlockTheWholeBlockIsWanted) {
  const auto allocator = MakeTiny(64);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  FakeReclaimer cache = PageCache(*allocator, held, 64);
  allocator->AddReclaimer(cache);
  EXPECT_TRUE(allocator->Allocate(0, Order(6)));
  EXPECT_THAT(cache.asked(), ElementsAre(64));
}

TEST(ReclaimTest, NoProgressEndsIt) {
  const auto allocator = MakeTiny(64);
  TakeAll(*allocator, 0, Order(0));
  const VmStat before = allocator->vmstat();
  FakeReclaimer empty([](PageCount) { return PageCount(0); });
  allocator->AddReclaimer(empty);
  EXPECT_FALSE(allocator->Allocate(0, Order(0)));
  EXPECT_THAT(empty.asked(), ElementsAre(32));
  EXPECT_EQ(allocator->vmstat().allocstall[kDma], before.allocstall[kDma] + 1);
  EXPECT_EQ(allocator->vmstat().alloc_failed, before.alloc_failed + 1);
  EXPECT_EQ(allocator->vmstat().pgsteal_direct, 0);
}

// Reclaim that makes progress but never frees a whole block.
FakeReclaimer Tireless(int rounds) {
  return FakeReclaimer(
      [rounds](PageCount) mutable { return PageCount(rounds-- > 0 ? 1 : 0); });
}

TEST(ReclaimTest, UpToOrder3ItGoesOnForAsLongAsThereIsProgress) {
  for (const int order : {0, 3}) {
    const auto allocator = MakeTiny(64);
    TakeAll(*allocator, 0, Order(0));
    FakeReclaimer reclaimer = Tireless(40);
    allocator->AddReclaimer(reclaimer);
    EXPECT_FALSE(allocator->Allocate(0, Order(order)));
    EXPECT_EQ(reclaimer.asked().size(), 41) << Order(order);
    EXPECT_EQ(allocator->vmstat().pgsteal_direct, 40);
  }
}

TEST(ReclaimTest, CostlyOrdersStopAfter16Rounds) {
  const auto allocator = MakeTiny(64);
  TakeAll(*allocator, 0, Order(0));
  FakeReclaimer reclaimer = Tireless(40);
  allocator->AddReclaimer(reclaimer);
  EXPECT_FALSE(allocator->Allocate(0, Order(4)));
  EXPECT_EQ(reclaimer.asked().size(), 16);
  EXPECT_EQ(allocator->vmstat().pgsteal_direct, 16);
}

TEST(ReclaimTest, ItEndsWithTheRoundThatFreesEnough) {
  const auto allocator = MakeTiny(64);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  const VmStat before = allocator->vmstat();
  // Pages are reclaimed one at a time, ascending: the eighth completes a block.
  std::sort(held.begin(), held.end(), std::greater<>());
  FakeReclaimer cache = PageCache(*allocator, held, 1);
  allocator->AddReclaimer(cache);
  EXPECT_EQ(allocator->Allocate(0, Order(3)), Pfn(0));
  EXPECT_EQ(cache.asked().size(), 8);
  // One request, however many rounds it takes.
  EXPECT_EQ(allocator->vmstat().allocstall[kDma], before.allocstall[kDma] + 1);
  EXPECT_EQ(allocator->vmstat().pgsteal_direct, 8);
}

TEST(ReclaimTest, ARequestThatMayNotWaitAsksNoOne) {
  const auto allocator = MakeTiny(64);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  const VmStat before = allocator->vmstat();
  FakeReclaimer cache = PageCache(*allocator, held, 64);
  allocator->AddReclaimer(cache);
  EXPECT_FALSE(allocator->Allocate(0, Order(0), kGfpAtomic));
  EXPECT_THAT(cache.asked(), IsEmpty());
  EXPECT_EQ(allocator->vmstat().allocstall, before.allocstall);
  EXPECT_EQ(allocator->vmstat().alloc_failed, before.alloc_failed + 1);
}

TEST(ReclaimTest, ARemovedReclaimerIsNotAsked) {
  const auto allocator = MakeTiny(64);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  FakeReclaimer gone = PageCache(*allocator, held, 64);
  FakeReclaimer stays = PageCache(*allocator, held, 64);
  allocator->AddReclaimer(gone);
  allocator->AddReclaimer(stays);
  allocator->RemoveReclaimer(gone);
  EXPECT_TRUE(allocator->Allocate(0, Order(0)));
  EXPECT_THAT(gone.asked(), IsEmpty());
  EXPECT_THAT(stays.asked(), ElementsAre(32));
}

TEST(ReclaimTest, AReclaimerMayAllocateWithoutWaiting) {
  const auto allocator = MakeTiny(64);
  std::vector<Pfn> held = TakeAll(*allocator, 0, Order(0));
  FakeReclaimer swap([&](PageCount) {
    EXPECT_FALSE(allocator->Allocate(0, Order(0), kGfpAtomic));
    allocator->Free(0, held.back(), Order(0));
    held.pop_back();
    return PageCount(1);
  });
  allocator->AddReclaimer(swap);
  EXPECT_TRUE(allocator->Allocate(0, Order(0)));
}

// Draining

// Pages cached by another vCPU are drained before the request fails.
TEST(ReclaimTest, PerCpuListsAreDrained) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 16)},
                     .cpus = 2,
                     .max_order = Order(4),
                     .section_order = Order(4),
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 16, .high = 32}});
  const auto page = allocator->Allocate(1, Order(0));
  ASSERT_TRUE(page.has_value());
  EXPECT_EQ(allocator->Counts().cached, PageCount(15));
  EXPECT_EQ(allocator->Counts().free, PageCount(0));
  EXPECT_TRUE(allocator->Allocate(0, Order(3)));
  EXPECT_EQ(allocator->Counts().cached, PageCount(0));
  const VmStat stat = allocator->vmstat();
  EXPECT_EQ(stat.allocstall[kDma], 1);
  EXPECT_EQ(stat.alloc_failed, 0);
  ExpectInvariants(*allocator);
}

// Pages in flight

// Of `host` pages that a reclaimer holds, sends one in flight per request to
// reclaim, if none is; it is free, and returned, kFlight later.
class InFlightTest : public ::testing::Test {
 protected:
  static constexpr Nanoseconds kFlight{1000};

  InFlightTest() {
    reclaimer_.find_in_flight = [this] { return Find(); };
    allocator_->AddReclaimer(reclaimer_);
  }
  ~InFlightTest() override {
    time_.CancelSync(answer_);
    if (is_added_) allocator_->RemoveReclaimer(reclaimer_);
    FreeAll(*allocator_, 0, held_, Order(0));
  }

  Reclaimer::InFlight Find() {
    if (before_find) std::exchange(before_find, nullptr)();
    return {.queue = is_in_flight_ ? &time_ : nullptr, .returns = returns_};
  }
  PageCount Send() {
    if (!is_in_flight_ && !held_.empty()) {
      is_in_flight_ = true;
      if (answers) time_.Queue(answer_, kFlight);
    }
    return PageCount(0);
  }
  void Answer() {
    allocator_->Free(0, held_.back(), Order(0));
    held_.pop_back();
    is_in_flight_ = false;
    ++returns_;
  }
  void Remove() {
    allocator_->RemoveReclaimer(reclaimer_);
    is_added_ = false;
  }

  VirtualTime time_{1};
  const std::unique_ptr<PageAllocator> allocator_ = MakeTiny(16);
  std::vector<Pfn> held_ = TakeAll(*allocator_, 0, Order(0));
  FakeReclaimer reclaimer_{[this](PageCount) { return Send(); }};
  bool is_added_ = true;
  bool is_in_flight_ = false;
  uint64_t returns_ = 0;
  Work answer_{[this] { Answer(); }};
  // Called once, by the next look at what is in flight.
  std::function<void()> before_find;
  bool answers = true;
};

// It asks the reclaimer again after each return: a block of order 2 takes
// several, and the last page is not the last try.
TEST_F(InFlightTest, ARequestWaitsUntilThePagesAreFree) {
  EXPECT_TRUE(allocator_->Allocate(0, Order(0)).has_value());
  EXPECT_EQ(time_.Now(), kFlight);
  EXPECT_TRUE(allocator_->Allocate(0, Order(2)).has_value());
  EXPECT_LE(time_.Now(), 8 * kFlight);
  EXPECT_EQ(allocator_->vmstat().alloc_failed, 1) << "that of the set-up";
  EXPECT_EQ(allocator_->vmstat().alloc_waited_isolated, 0);
}

TEST_F(InFlightTest, ItFailsOnceNothingIsInFlightAnyMore) {
  EXPECT_FALSE(allocator_->Allocate(0, Order(5)));
  EXPECT_THAT(held_, IsEmpty());
  EXPECT_EQ(time_.Now(), 16 * kFlight);
}

TEST_F(InFlightTest, ItFailsWhereNothingCouldEndTheWait) {
  answers = false;
  EXPECT_FALSE(allocator_->Allocate(0, Order(0)));
  EXPECT_EQ(allocator_->vmstat().alloc_failed, 2);
}

TEST_F(InFlightTest, ARequestThatMayNotWaitFails) {
  EXPECT_FALSE(allocator_->Allocate(0, Order(0), kGfpAtomic));
  EXPECT_FALSE(is_in_flight_);
}

// The page comes back after the attempt and before the look at what is in
// flight: nothing is, but the request is worth another try.
TEST_F(InFlightTest, APageThatReturnsInBetweenIsNotMissed) {
  answers = false;
  before_find = [this] { before_find = [this] { Answer(); }; };
  EXPECT_TRUE(allocator_->Allocate(0, Order(0)).has_value());
  EXPECT_EQ(time_.Now(), Nanoseconds(0));
}

// As a driver whose device is reset.
TEST_F(InFlightTest, ARemovedReclaimerEndsTheWait) {
  answers = false;
  Work reset([this] {
    Answer();
    Remove();
  });
  time_.Queue(reset, kFlight);
  EXPECT_TRUE(allocator_->Allocate(0, Order(0)).has_value());
  EXPECT_FALSE(allocator_->Allocate(0, Order(0)));
  EXPECT_EQ(time_.Now(), kFlight);
}

TEST_F(InFlightTest, AWorkIsGivenWhatToWaitFor) {
  std::optional<Pfn> pfn;
  std::function<bool()> when_to_retry;
  Work step([&] {
    pfn = allocator_->Allocate(0, Order(0));
    if (!pfn) when_to_retry = allocator_->WhenToRetry(0, Order(0), kGfpUser);
  });
  time_.Queue(step);
  time_.RunFor(Nanoseconds(0));
  EXPECT_EQ(pfn, std::nullopt);
  ASSERT_TRUE(when_to_retry);
  EXPECT_FALSE(when_to_retry());
  EXPECT_EQ(allocator_->vmstat().alloc_failed, 1) << "that of the set-up";
  EXPECT_TRUE(time_.QueueWhen(step, when_to_retry));
  time_.RunUntilIdle();
  EXPECT_TRUE(pfn.has_value());
  EXPECT_EQ(time_.Now(), kFlight);
}

}  // namespace
}  // namespace guestmm::reclaim_test
