// Guests and their VMM in separate processes, which are stopped and killed at
// random times.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/testing/await.h"
#include "tests/tools/vmm_testing.h"

namespace guestmm::vmm_test {
namespace {

namespace fs = std::filesystem;

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using VmmTest = VmmProcessTest;

// Blocks in use keep their contents; pages in flight return to the guest once
// the VMM is gone; and a new VMM can take over.
TEST_F(VmmTest, IsKilledAtAnyMoment) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  std::unique_ptr<Process> vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, random.Next());
  for (int round = 0; round < 40; ++round) {
    churn.Steps(random.Below(random.OneIn(2) ? 20 : 400));
    if (random.OneIn(3)) vmm->Stop();
    vmm->Signal(SIGKILL);
    churn.Steps(random.Below(100));
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm->Await();
    churn.Steps(20);
    churn.CheckAll();
    ExpectNothingIsolated(*guest);
    const uint64_t reported = guest->reporter()->counters().reported_bytes;
    churn.Steps(20);
    EXPECT_EQ(guest->reporter()->counters().reported_bytes, reported);
    EXPECT_THAT(guest->ReconnectVmm().ToString(), StartsWith("UNAVAILABLE: "));

    vmm = StartVmm();
    const absl::Status status = guest->ReconnectVmm();
    ASSERT_TRUE(status.ok()) << status;
    churn.CheckAll();
    ExpectReports(*guest);
  }
  churn.FreeAll();
  ExpectNothingIsolated(*guest);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

// The VMM may die before the guest has set the device up.
TEST_F(VmmTest, IsKilledDuringSetUp) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  std::unique_ptr<Process> vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  for (int round = 0; round < 40; ++round) {
    vmm->Kill();
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm = StartVmm();
    std::thread killer([&, after = random.Below(2000)] {
      const MonotonicClock clock;
      while (clock.Now() < std::chrono::microseconds(after)) {
      }
      vmm->Signal(SIGKILL);
    });
    // May succeed; the connection may be lost right after that.
    [[maybe_unused]] const absl::Status status = guest->ReconnectVmm();
    killer.join();
    vmm->Await();
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm = StartVmm();
    const absl::Status again = guest->ReconnectVmm();
    ASSERT_TRUE(again.ok()) << again;
    ExpectReports(*guest);
  }
}

TEST_F(VmmTest, IsStoppedAndContinued) {
  const auto vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, 1);
  ExpectReports(*guest);  // nothing else is sent to the VMM
  for (int round = 0; round < 5; ++round) {
    vmm->Stop();
    ExpectInFlight(*guest, churn);
    const PageCount isolated = guest->allocator().Counts().isolated;
    EXPECT_GT(isolated, PageCount(0));
    // The guest continues with the rest of its memory.
    churn.Steps(1000);
    EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
    vmm->Signal(SIGCONT);
    ExpectNothingIsolated(*guest);
    ExpectReports(*guest);
  }
  churn.FreeAll();
  EXPECT_TRUE(guest->vmm()->connection().ok());
}

// The guest gives the connection up, and the VMM is continued later. The guest
// does not reuse pages that the VMM may still discard until the process is
// gone.
TEST_F(VmmTest, PagesWithAStoppedVmmStayIsolatedAfterItsSocketIsClosed) {
  const auto vmm = StartVmm();
  const auto guest = StartGuest(std::chrono::milliseconds(500));
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(vmm->Line(), EndsWith(" came"));
  Churn churn(*guest, 1);
  ExpectReports(*guest);
  vmm->Stop();
  ExpectInFlight(*guest, churn);
  const PageCount isolated = guest->allocator().Counts().isolated;
  EXPECT_NE(guest->vmm()->status() & kVirtioNeedsReset, 0);
  EXPECT_THAT(std::string(guest->vmm()->connection().message()),
              HasSubstr("GET_STATUS: no reply in 500 ms"));
  churn.Steps(1000);
  EXPECT_FALSE(guest->driver()->is_down());
  EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
  EXPECT_EQ(guest->ReconnectVmm().code(),
            absl::StatusCode::kFailedPrecondition);
  // The VMM discards what was reported, and sees that the guest has left.
  vmm->Signal(SIGCONT);
  EXPECT_THAT(vmm->Line(), HasSubstr(" left: "));
  churn.Steps(1000);
  EXPECT_FALSE(guest->driver()->is_down());
  EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
  vmm->Signal(SIGKILL);
  EXPECT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
  ExpectNothingIsolated(*guest);
  churn.FreeAll();
}

TEST_F(VmmTest, AGuestEndsAlthoughItsVmmIsStopped) {
  const auto vmm = StartVmm();
  auto guest = StartGuest(std::chrono::milliseconds(500));
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, 1);
  ExpectReports(*guest);
  vmm->Stop();
  ExpectInFlight(*guest, churn);
  guest.reset();
  vmm->Signal(SIGCONT);
  // The VMM can serve another guest.
  guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
}

TEST_F(VmmTest, GuestsAreKilledAtAnyMoment) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  const auto vmm = StartVmm();
  auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  const size_t fds = vmm->Fds();
  const size_t mappings = vmm->Mappings();
  EXPECT_EQ(mappings, 1u);
  for (int round = 0; round < 25; ++round) {
    Process other({"density", "--vmm", path_, "--scale", "0.02", "--policies",
                   "v12", "--settle", "0.1"});
    // Long enough for a guest to boot. On a slow machine less will happen.
    EXPECT_FALSE(other.EndsWithin(static_cast<int>(random.Below(200))));
    other.Kill();
    ExpectReports(*guest);
  }
  EXPECT_TRUE(guestmm::Await([&] { return vmm->Fds() == fds; }));
  EXPECT_EQ(vmm->Mappings(), mappings);
  guest.reset();
  EXPECT_TRUE(guestmm::Await([&] { return vmm->Mappings() == 0; }));
}

TEST_F(VmmTest, EndsOnASignalAndPrintsASummary) {
  auto vmm = StartVmm();
  {
    const auto guest = StartGuest();
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(vmm->Line(),
              absl::StrCat("guest 1 (process ", getpid(), ") came"));
    ExpectReports(*guest);
    guest->WaitUntilAtRest(kPatience);
  }
  EXPECT_THAT(vmm->Line(),
              testing::MatchesRegex(absl::StrCat(
                  "guest 1 \\(process ", getpid(),
                  "\\) left: [0-9]+ reports, .* MiB handed back")));
  vmm->Signal(SIGTERM);
  EXPECT_THAT(vmm->Line(),
              testing::MatchesRegex("in all [0-9]+ reports, .* handed back"));
  EXPECT_EQ(vmm->Await(), 0);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(VmmTest, RefusesASocketThatIsInUse) {
  auto vmm = StartVmm();
  Process second({"vmm", "--socket", path_});
  EXPECT_EQ(second.Line(), "guestmm vmm: --socket=" + path_ +
                               ": must not be in use by another server");
  EXPECT_EQ(second.Await(), 2);
  Process none({"vmm"});
  EXPECT_EQ(none.Line(),
            "guestmm vmm: --socket, --fd: exactly one is required");
  EXPECT_EQ(none.Await(), 2);
  // A new VMM replaces the socket that a killed one leaves.
  vmm->Kill();
  EXPECT_TRUE(fs::exists(path_));
  vmm = StartVmm();
}

TEST_F(VmmTest, QuietPrintsNothing) {
  Process vmm({"vmm", "--socket", path_, "--quiet"});
  EXPECT_TRUE(guestmm::Await([&] { return fs::exists(path_); }));
  vmm.Signal(SIGINT);
  EXPECT_EQ(vmm.Line(), "");
  EXPECT_EQ(vmm.Await(), 0);
}

}  // namespace
}  // namespace guestmm::vmm_test
