#ifndef GUESTMM_TESTS_TRACE_RECORDING_TESTING_H_
#define GUESTMM_TESTS_TRACE_RECORDING_TESTING_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// A folder for the files of a recording, with an empty trace, which goes with
// the test.
class RecordingTest : public testing::Test {
 protected:
  RecordingTest()
      : folder_(
            std::filesystem::path(testing::TempDir()) /
            (std::string("recording_") +
             testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Write("trace.txt", "");
  }
  ~RecordingTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, std::string_view contents) const {
    std::ofstream(folder_ / name, std::ios::binary) << contents;
  }
  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }
  Recording Read() const { return ReadRecording(folder_.string()).value(); }
  // The error message if `name` has these contents; empty without an error.
  std::string Error(const std::string& name, std::string_view contents) const {
    Write(name, contents);
    const absl::Status status = ReadRecording(folder_.string()).status();
    std::filesystem::remove(folder_ / name);
    return std::string(status.message());
  }

  const std::filesystem::path folder_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TRACE_RECORDING_TESTING_H_
