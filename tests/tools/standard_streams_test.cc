// What guestmm does with standard streams that are closed or full, and when the
// machine has no more memory or threads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "guestmm/base/unique_fd.h"
#include "guestmm/commands/guestmm_main.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/tools/command_testing.h"

namespace guestmm::standard_streams_test {
namespace {

namespace fs = std::filesystem;
using ::testing::ExitedWithCode;

class StandardStreamsTest : public CommandTest {};

TEST_F(StandardStreamsTest, LostOutputIsAnError) {
  for (const std::string arguments :
       {"info --memory 0-64M", "--help", "--version", "density --help"}) {
    const auto expect = [&](const std::string& to, const std::string& why) {
      const Outcome outcome = Guestmm(arguments + to);
      EXPECT_EQ(outcome.status, 1) << arguments << to;
      EXPECT_EQ(outcome.err,
                "guestmm: standard output: cannot be written: " + why + "\n")
          << arguments << to;
    };
    expect(" >/dev/full", "No space left on device");
    expect(" >&-", "Bad file descriptor");
  }
}

// A server goes on without its log, and says so at its end.
TEST_F(StandardStreamsTest, LostLinesOfALogAreAnErrorAtItsEnd) {
  for (const std::string log : {"", " --quiet"}) {
    std::array<int, 2> fds = {-1, -1};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds.data()), 0);
    // A guest that leaves at once.
    close(fds[0]);
    const UniqueFd far(fds[1]);
    const Outcome outcome =
        Guestmm("vmm --fd " + std::to_string(far.get()) + log + " >/dev/full");
    EXPECT_EQ(outcome.status, log.empty() ? 1 : 0);
    EXPECT_EQ(outcome.err, log.empty()
                               ? "guestmm: standard output: cannot be written: "
                                 "No space left on device\n"
                               : "");
  }
}

TEST_F(StandardStreamsTest, AClosedStreamThatIsNamedIsAnError) {
  const std::string trace = GUESTMM_DATA "/procs/trace.gmtrace";
  const auto expect = [&](const std::string& arguments,
                          const std::string& stream) {
    const Outcome outcome = Guestmm(arguments);
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_EQ(outcome.err, "guestmm: " + stream + ": Bad file descriptor\n")
        << arguments;
  };
  expect("trace info - <&-", "/dev/stdin");
  expect("trace info /dev/stdin <&-", "/dev/stdin");
  expect("replay - --memory 0-64M <&-", "/dev/stdin");
  expect("density --config - <&-", "/dev/stdin");
  const Outcome outcome = Guestmm("trace convert " + trace + " - >&-");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.err, "guestmm: /dev/stdout: Bad file descriptor\n");
}

// The first file that is opened does not become standard output.
TEST_F(StandardStreamsTest, NoFileBecomesAClosedStream) {
  const std::string trace = GUESTMM_DATA "/procs/trace.gmtrace";
  const std::string whole = Path("whole");
  const std::string closed = Path("closed");
  EXPECT_EQ(Guestmm("trace convert " + trace + " " + whole).status, 0);
  EXPECT_EQ(Guestmm("trace convert " + trace + " " + closed + " >&-").status,
            1);
  EXPECT_EQ(fs::file_size(closed), fs::file_size(whole));
}

// guestmm compare with a policy whose making throws, but for the first `made`
// times: the check of the options, and then a run. Ends this process.
template <typename Error>
void CompareWithPolicyThatThrows(int made, const Error& error) {
  RegisterPolicy("failing", [&](const PolicyContext&) {
    if (made-- <= 0) throw error;
    return std::make_unique<V12Policy>(V12Options());
  });
  std::vector<std::string> words = {
      "guestmm",     "compare", "--policies",     "failing",
      "--workloads", "burst",   "--guest-memory", "64MiB",
      "--vcpus",     "1",       "--rest",         "1",
      "--duration",  "1"};
  std::vector<char*> argv;
  argv.reserve(words.size());
  for (std::string& word : words) argv.push_back(word.data());
  std::exit(tools::GuestmmMain(static_cast<int>(argv.size()), argv.data()));
}

TEST(GuestmmMainTest, ExceptionsAreErrorsOfOneLine) {
  EXPECT_EXIT(CompareWithPolicyThatThrows(0, std::bad_alloc()),
              ExitedWithCode(1), "^guestmm: out of memory\n$");
  EXPECT_EXIT(CompareWithPolicyThatThrows(
                  0, std::system_error(EAGAIN, std::generic_category())),
              ExitedWithCode(1),
              "^guestmm: out of threads: Resource temporarily unavailable\n$");
  EXPECT_EXIT(CompareWithPolicyThatThrows(0, std::runtime_error("this")),
              ExitedWithCode(1), "^guestmm: this\n$");
  // In a run, on whatever thread.
  EXPECT_EXIT(
      CompareWithPolicyThatThrows(1, std::bad_alloc()), ExitedWithCode(1),
      "^running burst\nguestmm compare: burst, failing: out of memory\n$");
}

// A thread that lets an exception out. Ends this process.
void ThrowOnAThread() {
  std::string words[] = {"guestmm", "--version"};
  char* argv[] = {words[0].data(), words[1].data()};
  tools::GuestmmMain(2, argv);
  std::thread([] { throw std::bad_alloc(); }).join();
}

TEST(GuestmmMainTest, SoAreThoseOfThreads) {
  EXPECT_EXIT(ThrowOnAThread(), ExitedWithCode(1),
              "^guestmm: out of memory\n$");
}

}  // namespace
}  // namespace guestmm::standard_streams_test
