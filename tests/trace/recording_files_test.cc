// Files of a recording that are cut, empty, there twice, or compressed in a way
// that is not read.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/trace/recording_testing.h"

namespace guestmm::recording_files_test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using RecordingFilesTest = RecordingTest;

TEST_F(RecordingFilesTest, ALastLineWithoutAnEndIsADoubt) {
  const auto doubts = [&](const std::string& name, const std::string& text) {
    Write(name, text);
    const auto found = Read().doubts;
    fs::remove(folder_ / name);
    return found;
  };
  for (const auto& [name, text] :
       std::vector<std::pair<std::string, std::string>>{
           {"reports.csv", "time_s,gpa,bytes\n1.5,4096,4096"},
           {"plug.csv", "time_s,gpa,bytes\n1.5,4194304,4194304"},
           {"rss.csv", "time_s,resident_kib\n1.5,12"},
           {"window.csv", "start_s,end_s\n1.5,2.5"},
           {"iomem", "\n00001000-0009ffff : System RAM"}}) {
    EXPECT_THAT(doubts(name, text),
                ElementsAre(Path(name) + ":2: has no end of a line: the file "
                                         "may be cut off there"));
    EXPECT_THAT(doubts(name, text + "\n"), IsEmpty());
  }
  // Within a line there is no doubt about it.
  EXPECT_EQ(Error("rss.csv", "time_s,resident_kib\n1.5,12\n2.5"),
            Path("rss.csv") +
                ":3: \"2.5\": expected numbers: "
                "time_s,resident_kib; the file may be cut off "
                "there");
}

TEST_F(RecordingFilesTest, AnEmptyTraceOfACpuIsADoubtBesideOthers) {
  fs::remove(folder_ / "trace.txt");
  Write("cpu0", "");
  Write("cpu1", "");
  EXPECT_THAT(Read().doubts, IsEmpty());
  Write("cpu1", "# tracer: nop\n");
  EXPECT_THAT(Read().doubts,
              ElementsAre(Path("cpu0") + ": is empty: its CPU had no events, "
                                         "or they are missing"));
}

TEST_F(RecordingFilesTest, TwoFilesOfTheSameContentsAreAnError) {
  const auto error = [&](const std::string& name) { return Error(name, ""); };
  const auto both = [&](const std::string& one, const std::string& other) {
    return Path(one) + ", " + Path(other) + ": must be one of the two";
  };
  EXPECT_EQ(error("trace.txt.zst"), both("trace.txt", "trace.txt.zst"));
  EXPECT_EQ(error("trace_pipe.gz"), both("trace.txt", "trace_pipe.gz"));
  EXPECT_EQ(error("trace"), both("trace.txt", "trace"));
  Write("rss.csv.gz", "time_s,resident_kib\n");
  EXPECT_EQ(error("rss.csv"), both("rss.csv", "rss.csv.gz"));
  fs::remove(folder_ / "rss.csv.gz");
  // Also of what is found ahead of other files.
  for (const char* const name :
       {"trace.extra", "iomem", "kpageflags.start", "zoneinfo.end"}) {
    const std::string other = std::string(name) + ".zst";
    Write(other, "");
    EXPECT_EQ(error(name), both(name, other));
    fs::remove(folder_ / other);
  }
  fs::remove(folder_ / "trace.txt");
  Write("cpu7", "");
  EXPECT_EQ(Error("cpu7.gz", "").substr(0, Path("cpu7").size()), Path("cpu7"));
  EXPECT_EQ(error("cpu8"), "");
  fs::create_directories(folder_ / "per_cpu" / "cpu0");
  Write("per_cpu/cpu0/trace", "");
  EXPECT_EQ(
      ReadRecording(folder_.string()).status().message(),
      Path("per_cpu") + ", " + folder_.string() + ": must be one of the two");
  // What the others were converted to comes first.
  Write("trace.gmtrace", "");
  EXPECT_EQ(Read().trace_path, Path("trace.gmtrace"));
}

TEST_F(RecordingFilesTest, ACompressionThatIsNotReadIsNamed) {
  const std::string xz(
      "\xfd"
      "7zXZ\0\0\4",
      8);
  EXPECT_EQ(Error("rss.csv.xz", xz),
            Path("rss.csv.xz") +
                ": must be plain, gzip or zstd; it is xz, "
                "which xz -d makes plain");
  EXPECT_EQ(Error("kpageflags.start.bz2", "BZh91AY&SY"),
            Path("kpageflags.start.bz2") +
                ": must be plain, gzip or zstd; it is bzip2, which bzip2 -d "
                "makes plain");
}

}  // namespace
}  // namespace guestmm::recording_files_test
