// Whole guests behind the front ends of QEMU, crosvm and Cloud Hypervisor. All
// guest memory is checked throughout.

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/virtio/vhost_user/back_end/front_end_testing.h"
#include "tests/virtio/vhost_user/back_end/guest_testing.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::front_ends_test {
namespace {

constexpr uint16_t kReporting = ReportingGuest::kReporting;
constexpr uint16_t kSize = ReportingGuest::kSize;

// The mappings of this process that `memfd` has.
int Mappings(int memfd) {
  struct stat file = {};
  GUESTMM_CHECK(fstat(memfd, &file) == 0);
  std::ifstream maps("/proc/self/maps");
  const std::string inode = absl::StrCat(" ", file.st_ino, " ");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find(inode) != std::string::npos ? 1 : 0;
  }
  return count;
}

class FrontEndTest : public ::testing::TestWithParam<FrontEndKind> {
 protected:
  FrontEndTest() { Serve(); }
  ~FrontEndTest() override { server_.reset(); }

  // A back end, after the former one has died.
  void Serve() {
    server_.reset();
    server_ = std::make_unique<VhostUserServer>(
        balloons_.maker(),
        VhostUserServerOptions{
            .on_end = [this](const auto& info, const auto& why) {
              ends_.Add(info, why);
            }});
  }
  FrontEnd Attach(GuestMemory& memory, ReportingGuest& guest,
                  std::optional<FrontEnd::Cut> cut = {}) {
    auto [near, far] = MakeSocketPair();
    EXPECT_TRUE(server_->Serve(std::move(far)).ok());
    return FrontEnd(GetParam(), memory, guest, std::move(near), cut);
  }
  FrontEnd StartedFrontEnd() {
    FrontEnd front = Attach(memory_, guest_);
    front.Connect();
    front.Start();
    ExpectServed(front);
    return front;
  }
  // The driver begins anew when the former session, if any, has let the rings
  // go. REQUIRES: its front end is gone.
  void Rebind() {
    if (std::exchange(has_session_, true)) ends_.Next();
    guest_.Bind(0);
  }
  // Nothing was refused, and the session goes on.
  void ExpectServed(FrontEnd& front) {
    front.Sync();
    EXPECT_EQ(front.refused(), std::vector<std::string>());
    EXPECT_EQ(server_->counters().refused, 0u);
    memory_.Check();
  }
  // Reports `count` units, one at a time, from unit `from` on.
  void Report(uint64_t from, uint64_t count) {
    for (uint64_t i = from; i < from + count; ++i) {
      ASSERT_TRUE(guest_.Report(memory_.unit_at(i))) << i;
    }
    memory_.Check();
  }
  // The guest uses what it had reported.
  void Reuse(uint64_t from, uint64_t count) {
    for (uint64_t i = from; i < from + count; ++i) {
      memory_.Use(memory_.unit_at(i));
    }
  }
  static ReportingGuest::Fate FateIf(bool discarded) {
    return discarded ? ReportingGuest::Fate::kDiscarded
                     : ReportingGuest::Fate::kKept;
  }
  uint64_t discards() const { return balloons_.discards().reports; }

  Ends ends_;
  BalloonFactory balloons_{
      {.features = kBalloonFPageReporting | kBalloonFPagePoison}};
  std::unique_ptr<VhostUserServer> server_;
  GuestMemory memory_{GuestMemory::Kind::kOneMemfd};
  ReportingGuest guest_{memory_};
  bool has_session_ = false;  // since Rebind
};

INSTANTIATE_TEST_SUITE_P(, FrontEndTest, ::testing::ValuesIn(kFrontEndKinds),
                         [](const auto& test) { return Name(test.param); });

// Reports under, at and over the queue's size, then a pause. The rings' old
// entries name pages that are in use by then: nothing may be discarded again,
// and the next report once.
TEST_P(FrontEndTest, APauseLosesNothing) {
  for (const uint16_t at_2 : {0, 1, 0xf000}) {
    for (const uint64_t reports : {0, 1, kSize - 1, kSize + 0, kSize + 1, 20}) {
      SCOPED_TRACE(testing::Message() << reports << " reports, " << at_2);
      memory_.SetWordAt2(at_2);
      Rebind();
      const uint64_t before = discards();
      FrontEnd front = StartedFrontEnd();
      ASSERT_NO_FATAL_FAILURE(Report(0, reports));
      Reuse(0, reports);
      front.Pause();
      ExpectServed(front);
      if (GetParam() != FrontEndKind::kCloudHypervisor) {
        EXPECT_EQ(front.base(), reports);
      }
      front.Resume();
      ExpectServed(front);
      EXPECT_EQ(discards(), before + reports);
      ASSERT_NO_FATAL_FAILURE(Report(reports, 1));
      EXPECT_EQ(discards(), before + reports + 1);
      ExpectServed(front);
    }
  }
}

// Again and again, past the wrap of the ring.
TEST_P(FrontEndTest, PausesAfterEveryReport) {
  FrontEnd front = StartedFrontEnd();
  for (uint64_t i = 0; i < 3u * kSize; ++i) {
    ASSERT_NO_FATAL_FAILURE(Report(i, 1));
    Reuse(i, 1);
    front.Pause();
    front.Resume();
    memory_.Check();
  }
  ExpectServed(front);
  EXPECT_EQ(discards(), 3u * kSize);
}

// Reports that are under way at the pause are acknowledged once, before or
// after it.
TEST_P(FrontEndTest, APauseWithReportsUnderWay) {
  FrontEnd front = StartedFrontEnd();
  uint64_t reports = 0;
  for (int round = 0; round < 10; ++round) {
    for (; guest_.outstanding() < kSize; ++reports) {
      guest_.Offer(memory_.unit_at(reports));
      guest_.Kick();
    }
    front.Pause();
    const uint16_t used = guest_.UsedIndex(kReporting);
    memory_.Check();
    if (GetParam() != FrontEndKind::kCloudHypervisor) {
      EXPECT_EQ(front.base(), used);
    }
    front.Resume();
    ASSERT_TRUE(guest_.AwaitAll());
    ExpectServed(front);
    EXPECT_EQ(discards(), reports);
    Reuse(0, reports);
  }
}

// What is offered and kicked while the VM is paused is handled when it goes on.
TEST_P(FrontEndTest, ReportsDuringAPause) {
  FrontEnd front = StartedFrontEnd();
  ASSERT_NO_FATAL_FAILURE(Report(0, 3));
  front.Pause();
  guest_.Offer(memory_.unit_at(3));
  guest_.Notify();
  ExpectServed(front);
  EXPECT_EQ(guest_.UsedIndex(kReporting), 3);
  front.Resume();
  ASSERT_TRUE(guest_.AwaitAll());
  ExpectServed(front);
  EXPECT_EQ(discards(), 4u);
}

// The guest resets the device, or its driver is unbound and bound again: rings
// begin anew, here and there, with other features.
TEST_P(FrontEndTest, ANewDriver) {
  FrontEnd front = StartedFrontEnd();
  for (int round = 1; round <= 4; ++round) {
    ASSERT_NO_FATAL_FAILURE(Report(0, kSize + 3));
    Reuse(0, kSize + 3);
    // Reports that nobody waits for any more.
    guest_.Offer(memory_.unit_at(0));
    guest_.Kick();
    front.Stop();
    guest_.Bind(round % 2);
    front.features ^= kBalloonFPagePoison;
    if ((front.features & kBalloonFPagePoison) != 0) {
      EXPECT_TRUE(front.WritePoison(0));
    }
    memory_.Check();
    front.Start();
    ExpectServed(front);
  }
  ASSERT_NO_FATAL_FAILURE(Report(0, 1));
}

// Memory is plugged in, reported and unplugged while the rings run. What was
// unplugged is not mapped any more.
TEST_P(FrontEndTest, MemoryComesAndGoes) {
  FrontEnd front = StartedFrontEnd();
  for (int round = 0; round < 3; ++round) {
    ASSERT_NO_FATAL_FAILURE(Report(0, 1));
    const GpaRange added = {Gpa(GuestMemory::kHotAdded), kMiB};
    memory_.Add(added, /*offset=*/kMiB);
    const int memfd = memory_.parts().back().memfd.get();
    EXPECT_EQ(Mappings(memfd), 1);
    front.MemoryAdded();
    EXPECT_EQ(Mappings(memfd), 2);
    ASSERT_TRUE(guest_.Report(added));
    memory_.Use({added.gpa, kMiB / 2});
    front.Pause();
    front.Resume();
    ExpectServed(front);
    front.MemoryRemoved();
    EXPECT_EQ(Mappings(memfd), 1);
    memory_.Remove(added);
    ASSERT_NO_FATAL_FAILURE(Report(0, 1));
    ExpectServed(front);
  }
}

// `discards`: with a poison that was negotiated only if it is known, and zero.
TEST_P(FrontEndTest, Poison) {
  enum class When { kBefore, kAfter, kNever };
  for (const bool negotiated : {true, false}) {
    for (const auto& [when, value, discards] :
         {std::tuple(When::kNever, 0u, false),
          {When::kBefore, 0u, true},
          {When::kBefore, 0xaaaaaaaau, false},
          {When::kAfter, 0u, true},
          {When::kAfter, 0xaaaaaaaau, false}}) {
      SCOPED_TRACE(testing::Message() << negotiated << " " << value << " "
                                      << static_cast<int>(when));
      Rebind();
      FrontEnd front = Attach(memory_, guest_);
      if (negotiated) front.features |= kBalloonFPagePoison;
      front.Connect();
      if (when == When::kBefore) {
        EXPECT_TRUE(front.WritePoison(value));
      }
      front.Start();
      guest_.fate = FateIf(!negotiated || (discards && when == When::kBefore));
      ASSERT_NO_FATAL_FAILURE(Report(0, kSize + 1));
      if (when == When::kAfter) {
        // The device runs: the value may not change any more.
        EXPECT_EQ(front.WritePoison(value), value == 0);
        guest_.fate = FateIf(!negotiated || discards);
        ASSERT_NO_FATAL_FAILURE(Report(1, kSize + 1));
      }
      // What is known outlives a pause.
      front.Pause();
      front.Resume();
      ASSERT_NO_FATAL_FAILURE(Report(2, 1));
      front.Sync();
      EXPECT_EQ(front.refused(), std::vector<std::string>());
      Reuse(0, memory_.units().size());
    }
  }
}

// The front end dies at any message, or in the middle of it. Its memory is let
// go, and another guest is not harmed.
TEST_P(FrontEndTest, TheFrontEndDies) {
  FrontEnd other = StartedFrontEnd();
  const size_t fds = OpenFds();
  bool is_whole = false;
  for (size_t at = 0; !is_whole; ++at) {
    for (const bool torn : {false, true}) {
      SCOPED_TRACE(testing::Message() << "message " << at << " torn " << torn);
      GuestMemory memory(GuestMemory::Kind::kTwoMemfds);
      ReportingGuest guest(memory);
      {
        FrontEnd front = Attach(memory, guest, FrontEnd::Cut{at, torn});
        front.Connect();
        front.Start();
        guest.Offer(memory.unit_at(0));
        guest.Notify();
        if (!front.closed()) {
          ASSERT_TRUE(guest.AwaitAll());
        }
        front.Pause();
        guest.Offer(memory.unit_at(1));
        guest.Notify();
        front.Resume();
        is_whole = !front.closed();
      }
      ends_.Next();
      for (const GuestMemory::Part& part : memory.parts()) {
        EXPECT_EQ(Mappings(part.memfd.get()), 1);
      }
      memory.Check();
    }
    ASSERT_NO_FATAL_FAILURE(Report(at, 1));
  }
  EXPECT_EQ(OpenFds(), fds);
  other.Sync();
  EXPECT_EQ(other.refused(), std::vector<std::string>());
}

// The back end dies; the front end connects to the next one, which goes on
// where the rings are.
TEST_P(FrontEndTest, TheBackEndDies) {
  std::optional<FrontEnd> front(StartedFrontEnd());
  uint64_t reports = 0;
  for (int round = 0; round < 5; ++round) {
    ASSERT_NO_FATAL_FAILURE(Report(reports, 5));
    reports += 5;
    Reuse(0, reports);
    if (round % 2 != 0) {
      // Reports that may or may not be taken.
      for (int i = 0; i < 3; ++i) guest_.Offer(memory_.unit_at(reports++));
      guest_.Kick();
    }
    Serve();
    ends_.Next();
    memory_.Check();
    front.emplace(Attach(memory_, guest_));
    front->Connect();
    front->Start(std::array<uint16_t, 3>{0, 0, guest_.UsedIndex(kReporting)});
    ExpectServed(*front);
    ASSERT_TRUE(guest_.AwaitAll());
  }
  ASSERT_NO_FATAL_FAILURE(Report(reports, 1));
  ExpectServed(*front);
}

// One guest, paused and resumed, with memory of each kind.
TEST_P(FrontEndTest, KindsOfMemory) {
  const auto pool = HugePagePool::Reserve(5);
  for (const GuestMemory::Kind kind :
       {GuestMemory::Kind::kOneMemfd, GuestMemory::Kind::kTwoMemfds,
        GuestMemory::Kind::kHugetlb}) {
    if (kind == GuestMemory::Kind::kHugetlb && !pool.ok()) {
      GTEST_SKIP() << pool.status();
    }
    SCOPED_TRACE(static_cast<int>(kind));
    GuestMemory memory(kind);
    ReportingGuest guest(memory);
    FrontEnd front = Attach(memory, guest);
    front.Connect();
    front.Start();
    for (uint64_t i = 0; i < 2 * memory.units().size(); ++i) {
      // From both ends.
      const GpaRange range = memory.unit_at(i % 2 == 0 ? i : ~i);
      ASSERT_TRUE(guest.Report(range));
      if (i % 50 == 0) {
        front.Pause();
        memory.Check();
        front.Resume();
      }
      memory.Use(range);
    }
    memory.Check();
    front.Sync();
    EXPECT_EQ(front.refused(), std::vector<std::string>());
  }
}

}  // namespace
}  // namespace guestmm::front_ends_test
