#ifndef GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_
#define GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_

// The guestmm command as a user runs it. GUESTMM_COMMAND is the program's path.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
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
    std::filesystem::remove_all(top_);
    std::filesystem::create_directories(top_);
  }
  ~CommandTest() override { std::filesystem::remove_all(top_); }

  // `before`: what the shell does first.
  Outcome Guestmm(const std::string& arguments,
                  const std::string& before = "") const {
    const std::string err = Path("stderr");
    const std::string command =
        before + std::string(GUESTMM_COMMAND) + " " + arguments + " 2>" + err;
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
  static std::filesystem::path Folder() {
    const auto* const test =
        ::testing::UnitTest::GetInstance()->current_test_info();
    return std::filesystem::path(::testing::TempDir()) /
           (std::string(test->test_suite_name()) + "_" + test->name());
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TOOLS_COMMAND_TESTING_H_
