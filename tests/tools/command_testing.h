#ifndef GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_
#define GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_

// The guestmm command as a user runs it. GUESTMM_COMMAND is the program's path.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace guestmm {

// What a command printed, and the status it exited with.
struct Outcome {
  int status;
  std::string out;
  std::string err;
};

// With a folder of its own, which goes with the test.
class CommandTest : public ::testing::Test {
 protected:
  CommandTest() : top_(Folder()) {
    // Tests look for what lines say, not for where they end.
    setenv("COLUMNS", "1000", /*overwrite=*/1);
  }
  ~CommandTest() override { std::filesystem::remove_all(top_); }

  // `before`: what the shell does first.
  Outcome Guestmm(const std::string& arguments,
                  const std::string& before = "") const {
    return Shell(before + std::string(GUESTMM_COMMAND) + " " + arguments);
  }

  // A command of the shell.
  Outcome Shell(const std::string& command) const {
    const std::string err = Path("stderr");
    std::FILE* const pipe = popen((command + " 2>" + err).c_str(), "r");
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

  // Of a file in the folder; and its text.
  std::string Path(const std::string& name) const {
    return (top_ / name).string();
  }
  static std::string Contents(const std::filesystem::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  const std::filesystem::path top_;

 private:
  // Creates a new one: the same test may run several times at once.
  static std::filesystem::path Folder() {
    const auto* const test =
        ::testing::UnitTest::GetInstance()->current_test_info();
    std::string folder = ::testing::TempDir() + test->test_suite_name() + "_" +
                         test->name() + "_XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr) << folder;
    return folder;
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_
