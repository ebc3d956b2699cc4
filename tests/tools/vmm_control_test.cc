// `guestmm vmm ctl`, and `guestmm vmm --seccomp`.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/testing/await.h"
#include "tests/tools/vmm_testing.h"
#include "tools/guestmm/sandbox.h"

namespace guestmm::vmm_control_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kOfferAll[] = "reporting,hinting,balloon,statistics,poison";

class VmmControlTest : public VmmProcessTest {
 protected:
  // What `vmm ctl` prints.
  std::string Ctl(std::vector<std::string> arguments, int expected = 0) const {
    arguments.insert(arguments.begin(), {"vmm", "ctl", "--control", control_});
    Process process(arguments);
    std::string text = process.Rest();
    EXPECT_EQ(process.Await(), expected) << text;
    return text;
  }
  nlohmann::json Json(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    return nlohmann::json::parse(Ctl(std::move(arguments)));
  }
};

TEST_F(VmmControlTest, EachCommandDoesWhatItSays) {
  const auto vmm = StartVmm({"--control", control_, "--offer", kOfferAll,
                             "--max-rate", "1.00 TiB/s"});
  EXPECT_EQ(Ctl({"status"}),
            absl::StrCat("offered: ", kOfferAll,
                         "\nrefused connections: 0\nno guests\n"));
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  const std::string status = Ctl({"status"});
  EXPECT_THAT(status, AllOf(HasSubstr("guest"), HasSubstr("1.00 TiB/s")));
  setenv("COLUMNS", "80", /*overwrite=*/1);
  const std::vector<std::string> lines = absl::StrSplit(Ctl({"status"}), '\n');
  for (const std::string& line : lines) {
    EXPECT_LE(line.size(), 80u) << line;
  }
  EXPECT_THAT(Ctl({"target", "4MiB"}), HasSubstr("4.00 MiB"));
  EXPECT_TRUE(guestmm::Await([&] {
    return Json({"status"})["guests"][0]["actual_bytes"] == 4 * kMiB;
  }));
  EXPECT_EQ(Json({"hint", "start"})["guests"][0]["guest"], 1);
  EXPECT_TRUE(guestmm::Await([&] {
    return Json({"hint", "progress"})["guests"][0]["hinting"] == false;
  }));
  EXPECT_GT(Json({"hint", "progress"})["guests"][0]["run_bytes"], kMiB);
  EXPECT_EQ(Json({"statistics", "--interval", "2",
                  "--request"})["guests"][0]["interval"],
            2.0);
  EXPECT_GT(Json({"statistics"})["guests"][0]["free_bytes"], kMiB);
  EXPECT_EQ(Json({"hold", "--guest", "1"})["guests"][0]["holds_discards"],
            true);
  EXPECT_EQ(Json({"--guest", "1", "resume"})["guests"][0]["holds_discards"],
            false);
  // As status prints it.
  EXPECT_EQ(Json({"rate", "1.00 GiB/s"})["guests"][0]["max_discard_rate"],
            kGiB);
  EXPECT_THAT(Ctl({"metrics"}), AllOf(StartsWith("# HELP guestmm_vmm_guests "),
                                      HasSubstr("\nguestmm_vmm_guests 1\n")));
  ExpectReports(*guest);
  vmm->Signal(SIGTERM);
  EXPECT_EQ(vmm->Await(), 0);
  EXPECT_FALSE(std::filesystem::exists(control_));
}

TEST_F(VmmControlTest, NamesWhatIsWrong) {
  EXPECT_THAT(Ctl({"status"}, 1), StartsWith("guestmm vmm ctl: --control=" +
                                             control_ + ": connect failed: "));
  const auto vmm = StartVmm({"--control", control_});
  EXPECT_EQ(
      Ctl({"target", "1MiB"}, 1),
      "guestmm vmm ctl: target: not offered to guests (--offer=balloon)\n");
  EXPECT_EQ(Ctl({"hold", "--guest", "7"}, 1),
            "guestmm vmm ctl: hold: guest 7: must be connected\n");
  EXPECT_EQ(Ctl({"rate", "fast"}, 2),
            "guestmm vmm ctl rate: SIZE=fast: must be a size per second, as in "
            "512MiB/s\n");
  EXPECT_EQ(Ctl({"hint", "go"}, 2),
            "guestmm vmm ctl hint: ACTION=go: must be one of start, stop, "
            "progress\n");
  EXPECT_THAT(Ctl({"nope"}, 2), StartsWith("guestmm vmm ctl: nope: must be one "
                                           "of status, target, "));
  EXPECT_EQ(Ctl({"statistics", "--interval", "0.01"}, 1),
            "guestmm vmm ctl: statistics: interval: must be 0, or 0.1 to 86400 "
            "seconds\n");
}

// --- The seccomp filter.

// Sanitizers make system calls of their own.
#ifndef GUESTMM_SANITIZED
// Guests of a density run, a control socket and a signal: nothing that the
// server does after its start is forbidden.
TEST_F(VmmControlTest, ServesBehindItsFilter) {
  if (!tools::HasSeccomp()) GTEST_SKIP() << "NOT tested: no libseccomp";
  const auto vmm = StartVmm(
      {"--control", control_, "--offer", kOfferAll, "--seccomp", "on"});
  Process density({"density", "--vmm", path_, "--scale", "0.02", "--policies",
                   "v12", "--settle", "0.1", "--max-guests", "2"});
  density.Rest();
  EXPECT_EQ(density.Await(), 0);
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  Ctl({"target", "4MiB"});
  Ctl({"hint", "start"});
  Ctl({"metrics"});
  vmm->Signal(SIGTERM);
  EXPECT_EQ(vmm->Await(), 0);
  EXPECT_FALSE(std::filesystem::exists(path_));
}
#endif

TEST(SandboxDeathTest, AForbiddenCallEndsTheProcess) {
  if (!tools::HasSeccomp()) GTEST_SKIP() << "NOT tested: no libseccomp";
  const auto enter_and = [](int (*call)()) {
    if (!tools::EnterSeccomp().ok()) _exit(1);
    call();
    _exit(0);
  };
  const auto nothing = [] { return 0; };
  EXPECT_EXIT(enter_and(nothing), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(enter_and([] { return socket(AF_INET, SOCK_STREAM, 0); }),
              testing::KilledBySignal(SIGSYS), "");
  EXPECT_EXIT(enter_and([] { return execl("/bin/true", "true", nullptr); }),
              testing::KilledBySignal(SIGSYS), "");
  EXPECT_EXIT(
      enter_and([] { return open("/tmp/never", O_CREAT | O_WRONLY, 0600); }),
      testing::KilledBySignal(SIGSYS), "");
}

}  // namespace
}  // namespace guestmm::vmm_control_test
