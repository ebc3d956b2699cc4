#include "guestmm/experiment/report/output_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "guestmm/host/accounting/host_info.h"

namespace guestmm::output_directory_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class OutputDirectoryTest : public testing::Test {
 protected:
  OutputDirectoryTest()
      : top_(fs::path(testing::TempDir()) /
             testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(top_);
    fs::create_directories(top_);
  }
  ~OutputDirectoryTest() override { fs::remove_all(top_); }

  static std::string Contents(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  const fs::path top_;
};

TEST_F(OutputDirectoryTest, CreatesTheFolderAndItsParents) {
  const auto out = OutputDirectory::Open((top_ / "a" / "b").string());
  ASSERT_EQ(out.status(), absl::OkStatus());
  ASSERT_EQ(out->Write("file", "text"), absl::OkStatus());
  EXPECT_EQ(Contents(top_ / "a" / "b" / "file"), "text");
}

TEST_F(OutputDirectoryTest, ReplacesAFileAndLeavesNoOther) {
  const auto out = OutputDirectory::Open(top_.string());
  ASSERT_EQ(out->Write("file", "a longer text"), absl::OkStatus());
  ASSERT_EQ(out->Write("file", "text"), absl::OkStatus());
  EXPECT_EQ(Contents(top_ / "file"), "text");
  EXPECT_EQ(std::distance(fs::directory_iterator(top_), {}), 1);
}

TEST_F(OutputDirectoryTest, RefusesAPathThatCannotBeAFolder) {
  std::ofstream(top_ / "file") << "text";
  const std::string in_file = (top_ / "file" / "sub").string();
  EXPECT_EQ(
      OutputDirectory::Open(in_file).status(),
      absl::FailedPreconditionError(
          in_file + ": must be a folder that can be created: Not a directory"));
  const std::string file = (top_ / "file").string();
  EXPECT_EQ(OutputDirectory::Open(file).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Contents(top_ / "file"), "text");
}

// Removes the folder: root may write to any folder that exists.
TEST_F(OutputDirectoryTest, NamesTheFileThatCannotBeWritten) {
  const auto out = OutputDirectory::Open((top_ / "sub").string());
  fs::remove_all(top_ / "sub");
  const absl::Status status = out->Write("file", "text");
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("sub/file"));
}

TEST_F(OutputDirectoryTest, AFailedWriteLeavesTheOldFile) {
  const auto out = OutputDirectory::Open(top_.string());
  ASSERT_EQ(out->Write("file", "text"), absl::OkStatus());
  fs::create_directory(top_ / "file.partial");
  EXPECT_FALSE(out->Write("file", "other").ok());
  EXPECT_EQ(Contents(top_ / "file"), "text");
}

TEST(HostInfoTest, DescribesThisMachine) {
  const HostInfo info = ReadHostInfo();
  EXPECT_GE(info.page_size, 4096u);
  EXPECT_THAT(info.kernel, testing::StartsWith("Linux "));
  EXPECT_THAT(info.thp,
              testing::AnyOf("always", "madvise", "never", "unknown"));
  EXPECT_GT(info.memory_bytes, 0u);
  EXPECT_GT(AvailableMemory(), 0u);
  EXPECT_LE(AvailableMemory(), info.memory_bytes);
}

}  // namespace
}  // namespace guestmm::output_directory_test
