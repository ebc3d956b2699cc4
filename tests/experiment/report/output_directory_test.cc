#include "guestmm/experiment/report/output_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "guestmm/host/accounting/host_info.h"

namespace guestmm::output_directory_test {
namespace {

namespace fs = std::filesystem;

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

  static absl::StatusOr<OutputDirectory> Open(const std::string& path,
                                              bool force = false) {
    const std::string names[] = {"first", "second"};
    return OutputDirectory::Open(path, names, force);
  }
  static std::vector<ResultFile> Files(const std::string& text) {
    const auto its = [text] { return text; };
    return {{"first", its}, {"second", its}};
  }

  const fs::path top_;
};

TEST_F(OutputDirectoryTest, CreatesTheFolderAndItsParents) {
  const auto out = Open((top_ / "a" / "b").string());
  ASSERT_EQ(out.status(), absl::OkStatus());
  ASSERT_EQ(out->Write(Files("text")), absl::OkStatus());
  EXPECT_EQ(Contents(top_ / "a" / "b" / "first"), "text");
  EXPECT_EQ(Contents(top_ / "a" / "b" / "second"), "text");
}

TEST_F(OutputDirectoryTest, RemovesWhatItCreatedIfThatIsEmpty) {
  fs::create_directory(top_ / "a");
  { EXPECT_TRUE(Open((top_ / "a" / "b" / "c" / "").string()).ok()); }
  EXPECT_TRUE(fs::is_empty(top_ / "a"));
  { EXPECT_TRUE(Open((top_ / "a").string()).ok()); }
  EXPECT_TRUE(fs::exists(top_ / "a"));
  {
    const auto out = Open((top_ / "a" / "b" / "c").string());
    std::ofstream(top_ / "a" / "b" / "other") << "text";
  }
  EXPECT_FALSE(fs::exists(top_ / "a" / "b" / "c"));
  EXPECT_EQ(Contents(top_ / "a" / "b" / "other"), "text");
}

TEST_F(OutputDirectoryTest, ALinkLeadsToAFolderOrIsRefused) {
  const std::string link = (top_ / "link").string();
  fs::create_directory_symlink("there", link);
  for (const std::string& path : {link, link + "/sub"}) {
    EXPECT_EQ(Open(path).status(),
              absl::FailedPreconditionError(
                  path + ": must be a folder that can be created: " + link +
                  " is a link to there, which does not exist"));
  }
  fs::create_directory(top_ / "there");
  ASSERT_EQ(Open(link)->Write(Files("text")), absl::OkStatus());
  EXPECT_EQ(Contents(top_ / "there" / "first"), "text");
}

TEST_F(OutputDirectoryTest, RefusesAPathThatCannotBeAFolder) {
  std::ofstream(top_ / "file") << "text";
  const std::string in_file = (top_ / "file" / "sub").string();
  EXPECT_EQ(
      Open(in_file).status(),
      absl::FailedPreconditionError(
          in_file + ": must be a folder that can be created: Not a directory"));
  const std::string file = (top_ / "file").string();
  EXPECT_EQ(Open(file).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Contents(top_ / "file"), "text");
  EXPECT_EQ(Open("").status(),
            absl::InvalidArgumentError("\"\": must be the path of a folder"));
}

TEST_F(OutputDirectoryTest, ResultsAreReplacedOnlyByForce) {
  std::ofstream(top_ / "other") << "text";
  ASSERT_EQ(Open(top_.string())->Write(Files("old")), absl::OkStatus());
  EXPECT_EQ(Open(top_.string()).status(),
            absl::AlreadyExistsError(top_.string() +
                                     ": must be a folder without results, or "
                                     "--force be given; it has first"));
  ASSERT_EQ(Open(top_.string(), /*force=*/true)->Write(Files("new")),
            absl::OkStatus());
  EXPECT_EQ(Contents(top_ / "first"), "new");
  EXPECT_EQ(Contents(top_ / "other"), "text");
  EXPECT_EQ(std::distance(fs::directory_iterator(top_), {}), 3);
}

// Removes the folder: root may write to any folder that exists.
TEST_F(OutputDirectoryTest, NamesTheFileThatCannotBeWritten) {
  const std::string sub = (top_ / "sub").string();
  const auto out = Open(sub);
  fs::remove_all(sub);
  EXPECT_EQ(out->Write(Files("text")),
            absl::UnavailableError(
                sub + "/first: cannot be written: No such file or directory"));
}

TEST_F(OutputDirectoryTest, WritesAllFilesOrNone) {
  const auto out = Open(top_.string());
  fs::create_directory(top_ / "second");
  EXPECT_FALSE(out->Write(Files("text")).ok());
  EXPECT_FALSE(fs::exists(top_ / "first"));
  EXPECT_EQ(std::distance(fs::directory_iterator(top_), {}), 1);
}

TEST(HostInfoTest, DescribesThisMachine) {
  const HostInfo info = ReadHostInfo();
  EXPECT_GE(info.page_size, 4096u);
  EXPECT_THAT(info.kernel, testing::StartsWith("Linux "));
  EXPECT_THAT(info.thp,
              testing::AnyOf("always", "madvise", "never", "unknown"));
  EXPECT_GT(AvailableMemory().value(), 0u);
  EXPECT_LE(AvailableMemory().value(), info.memory_bytes.value());
}

}  // namespace
}  // namespace guestmm::output_directory_test
