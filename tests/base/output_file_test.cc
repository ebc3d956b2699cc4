#include "guestmm/base/output_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace guestmm::output_file_test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;

class OutputFileTest : public testing::Test {
 protected:
  OutputFileTest()
      : top_(fs::path(testing::TempDir()) /
             (std::string("output_file_") +
              testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(top_);
    fs::create_directories(top_);
  }
  ~OutputFileTest() override { fs::remove_all(top_); }

  std::string Path(const std::string& name) const {
    return (top_ / name).string();
  }
  std::string Contents(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(top_ / name).rdbuf();
    return text.str();
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(top_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  // Writes "new" to `path`.
  static absl::Status Write(const std::string& path) {
    absl::StatusOr<OutputFile> file = OutputFile::Create(path);
    if (!file.ok()) return file.status();
    absl::Status status = file->Write("new");
    status.Update(file->Commit());
    return status;
  }

  const fs::path top_;
};

TEST_F(OutputFileTest, ReplacesAFileWhenItIsWholeAndLeavesItsPermissions) {
  std::ofstream(Path("file")) << "a longer text";
  chmod(Path("file").c_str(), 0640);
  auto file = OutputFile::Create(Path("file"));
  ASSERT_EQ(file.status(), absl::OkStatus());
  ASSERT_EQ(file->Write("te"), absl::OkStatus());
  ASSERT_EQ(file->Write("xt"), absl::OkStatus());
  ASSERT_EQ(file->Close(), absl::OkStatus());
  EXPECT_EQ(Contents("file"), "a longer text");
  ASSERT_EQ(file->Commit(), absl::OkStatus());
  EXPECT_EQ(Contents("file"), "text");
  EXPECT_THAT(Names(), ElementsAre("file"));
  struct stat found = {};
  ASSERT_EQ(stat(Path("file").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777u, 0640u);
}

TEST_F(OutputFileTest, WithoutCommitNothingIsLeft) {
  {
    auto file = OutputFile::Create(Path("file"));
    ASSERT_EQ(file->Write("text"), absl::OkStatus());
    const OutputFile moved = *std::move(file);
  }
  EXPECT_THAT(Names(), ElementsAre());
}

TEST_F(OutputFileTest, LinksStayAndLeadToTheFile) {
  std::ofstream(Path("target")) << "old";
  fs::create_symlink("target", Path("second"));
  fs::create_symlink(Path("second"), Path("first"));
  fs::create_symlink("none", Path("dangling"));
  EXPECT_EQ(Write(Path("first")), absl::OkStatus());
  EXPECT_EQ(Write(Path("dangling")), absl::OkStatus());
  EXPECT_TRUE(fs::is_symlink(Path("first")));
  EXPECT_TRUE(fs::is_symlink(Path("second")));
  EXPECT_TRUE(fs::is_symlink(Path("dangling")));
  EXPECT_EQ(Contents("target"), "new");
  EXPECT_EQ(Contents("none"), "new");
  fs::create_symlink("/no/such", Path("lost"));
  EXPECT_EQ(Write(Path("lost")),
            absl::UnavailableError(
                Path("lost") + ", a link to /no/such: cannot be written: No "
                               "such file or directory"));
  fs::create_symlink("loop", Path("loop"));
  EXPECT_EQ(Write(Path("loop")),
            absl::UnavailableError(
                Path("loop") +
                ": cannot be written: Too many levels of symbolic links"));
}

TEST_F(OutputFileTest, AFifoIsWrittenTo) {
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  const UniqueFd reader(open(Path("fifo").c_str(), O_RDONLY | O_NONBLOCK));
  EXPECT_EQ(Write(Path("fifo")), absl::OkStatus());
  std::array<char, 8> read_back = {};
  EXPECT_EQ(read(reader.get(), read_back.data(), read_back.size()), 3);
  EXPECT_STREQ(read_back.data(), "new");
  EXPECT_TRUE(fs::is_fifo(Path("fifo")));
}

TEST_F(OutputFileTest, ADeviceIsWrittenToAndSaysWhyNot) {
  EXPECT_EQ(Write("/dev/null"), absl::OkStatus());
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_EQ(Write("/dev/full"),
            absl::UnavailableError(
                "/dev/full: cannot be written: No space left on device"));
}

TEST_F(OutputFileTest, RefusesNoPathAndAFolder) {
  EXPECT_EQ(OutputFile::Create("").status(),
            absl::InvalidArgumentError("\"\": must be the path of a file"));
  EXPECT_EQ(OutputFile::Create(top_.string()).status(),
            absl::InvalidArgumentError(top_.string() +
                                       ": must be a file; it is a folder"));
  EXPECT_EQ(
      OutputFile::Create(Path("no/file")).status(),
      absl::UnavailableError(Path("no/file") +
                             ": cannot be written: No such file or directory"));
}

TEST_F(OutputFileTest, AFailureToRenameLeavesNothing) {
  auto file = OutputFile::Create(Path("file"));
  fs::create_directory(Path("file"));
  EXPECT_EQ(file->Commit(),
            absl::UnavailableError(Path("file") +
                                   ": cannot be written: Is a directory"));
  file = absl::CancelledError();
  EXPECT_THAT(Names(), ElementsAre("file"));
}

// Writes to a process's files of at most 4 bytes. Returns its exit status.
int WriteTooMuch(const std::string& path) {
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {.rlim_cur = 4, .rlim_max = 4};
  setrlimit(RLIMIT_FSIZE, &limit);
  auto file = OutputFile::Create(path);
  const absl::Status status = file->Write("longer");
  const bool right =
      status == absl::UnavailableError(path +
                                       ": cannot be written: File too large") &&
      file->Close() == status && file->Commit() == status;
  return right ? 0 : 1;
}

TEST_F(OutputFileTest, AFullDiskLeavesTheOldFile) {
  std::ofstream(Path("file")) << "old";
  EXPECT_EXIT(std::_Exit(WriteTooMuch(Path("file"))), ExitedWithCode(0), "");
  EXPECT_EQ(Contents("file"), "old");
  EXPECT_THAT(Names(), ElementsAre("file"));
}

TEST_F(OutputFileTest, ASignalRemovesWhatIsNotCommitted) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        CleanUpAtSignals();
        const auto file = OutputFile::Create(Path("file"));
        raise(SIGINT);
      },
      KilledBySignal(SIGINT), "");
  EXPECT_THAT(Names(), ElementsAre());
}

}  // namespace
}  // namespace guestmm::output_file_test
