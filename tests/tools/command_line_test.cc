// The guestmm command as a user runs it: what it prints, where, and the status
// it exits with. GUESTMM_COMMAND is the program's path.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace guestmm {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

struct Outcome {
  int status;
  std::string out;
  std::string err;
};

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest()
      : top_(fs::path(testing::TempDir()) /
             (std::string("command_line_") +
              testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(top_);
    fs::create_directories(top_);
  }
  ~CommandLineTest() override { fs::remove_all(top_); }

  Outcome Guestmm(const std::string& arguments) const {
    const std::string err = (top_ / "stderr").string();
    const std::string command =
        std::string(GUESTMM_COMMAND) + " " + arguments + " 2>" + err;
    std::FILE* const pipe = popen(command.c_str(), "r");
    EXPECT_NE(pipe, nullptr);
    Outcome outcome;
    std::array<char, 4096> buffer;
    while (const size_t got =
               std::fread(buffer.data(), 1, buffer.size(), pipe)) {
      outcome.out.append(buffer.data(), got);
    }
    outcome.status = WEXITSTATUS(pclose(pipe));
    outcome.err = Contents(err);
    return outcome;
  }

  static std::string Contents(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  // One line on stderr, nothing on stdout, status 2.
  void ExpectRefused(const std::string& arguments, const std::string& line) {
    const Outcome outcome = Guestmm(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.err, line + "\n");
    EXPECT_THAT(outcome.out, IsEmpty());
  }

  const fs::path top_;
};

TEST_F(CommandLineTest, NamesTheOptionTheValueAndWhatIsAllowed) {
  ExpectRefused("density --scale 0",
                "guestmm density: --scale 0: allowed is 0.02 to 64");
  ExpectRefused("density --scale abc",
                "guestmm density: --scale abc: allowed is a number, as in "
                "0.25");
  ExpectRefused("density --policies off,nonsense",
                "guestmm density: --policies nonsense: there is no such "
                "policy; allowed are off, v12, v12-hotplug");
  ExpectRefused("density --order 11",
                "guestmm density: --order 11: allowed is a whole number from "
                "0 to 10");
  ExpectRefused("density --seed -1",
                "guestmm density: --seed -1: allowed is a whole number from 0 "
                "to 18446744073709551615");
  ExpectRefused("density --hypervisor xen",
                "guestmm density: --hypervisor xen: allowed is madvise, none");
  ExpectRefused("density --footprint 3parsecs",
                "guestmm density: --footprint 3parsecs: allowed is a number of "
                "bytes, KiB, MiB, GiB or TiB, as in 256MiB");
}

TEST_F(CommandLineTest, RefusesMoreMemoryThanTheMachineHas) {
  const Outcome outcome = Guestmm(
      "density --scale 1 --host-memory 64TiB --out " + (top_ / "out").string());
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("--host-memory 64.00 TiB: a host of 64.00 TiB"),
                    HasSubstr("this machine has available")));
  EXPECT_FALSE(fs::exists(top_ / "out"));
}

TEST_F(CommandLineTest, RefusesAFolderThatCannotBeWrittenBeforeRunning) {
  std::ofstream(top_ / "file") << "text";
  const std::string out = (top_ / "file" / "out").string();
  ExpectRefused(
      "density --out " + out,
      "guestmm density: --out " + out + ": cannot be made: Not a directory");
}

TEST_F(CommandLineTest, RefusesWhatIsNoCommandOrOption) {
  EXPECT_EQ(Guestmm("").status, 2);
  EXPECT_EQ(Guestmm("densty").status, 2);
  const Outcome outcome = Guestmm("density --sclae 1");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--sclae"));
}

TEST_F(CommandLineTest, HelpNamesEveryOption) {
  EXPECT_THAT(Guestmm("--version").out, HasSubstr("guestmm 0."));
  const Outcome help = Guestmm("density --help");
  EXPECT_EQ(help.status, 0);
  for (const char* option :
       {"--scale", "--guest-memory", "--host-memory", "--footprint",
        "--workload-min", "--policies", "--seed", "--order", "--threshold",
        "--capacity", "--hypervisor", "--huge-pages", "--idle-activity",
        "--settle", "--max-guests", "--out"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
}

TEST_F(CommandLineTest, DensityPrintsATableAndWritesItsFiles) {
  const fs::path out = top_ / "a" / "out";
  const Outcome outcome =
      Guestmm("density --scale 0.02 --max-guests 3 --out " + out.string());
  EXPECT_EQ(outcome.status, 0);
  // No terminal, no progress.
  EXPECT_THAT(outcome.err, IsEmpty());
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("guests that fit"), HasSubstr("\noff "),
                    HasSubstr("\nv12 "), HasSubstr("\nlimit "),
                    HasSubstr("\nv12 stopped early: max-guests 3\n"),
                    EndsWith("summary.json, series.csv\n")));
  EXPECT_THAT(Contents(out / "summary.json"), HasSubstr("\"experiment\""));
  EXPECT_THAT(Contents(out / "series.csv"), HasSubstr("resident_bytes\noff,"));
}

}  // namespace
}  // namespace guestmm
