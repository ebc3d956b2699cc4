// Which memory a recording says to arrive and to leave.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/trace/recording_testing.h"

namespace guestmm::memory_changes_test {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kSection = kSectionOrder.bytes();
// At 1 GiB.
constexpr uint64_t kPlugged = 0x40000;

class MemoryChangesTest : public RecordingTest {
 protected:
  // 256 MiB from 1 MiB on.
  MemoryChangesTest() { Write("iomem", "00100000-100fffff : System RAM\n"); }

  static GpaRange Range(uint64_t pfn, uint64_t bytes) {
    return {.gpa = ToGpa(Pfn(pfn)), .bytes = bytes};
  }
  static std::string Free(uint64_t pfn, int order) {
    return absl::StrFormat(
        " t-1 [000] 10.000000: mm_page_free: pfn=0x%x order=%d\n", pfn, order);
  }
  // Frees of [pfn, pfn + pages) in blocks of 4 MiB.
  static std::string Frees(uint64_t pfn, uint64_t pages) {
    std::string text;
    for (uint64_t at = pfn; at < pfn + pages; at += 1024) text += Free(at, 10);
    return text;
  }
  static std::string Alloc(uint64_t pfn, int order) {
    return absl::StrFormat(
        " t-1 [000] 10.000000: mm_page_alloc: pfn=0x%x order=%d migratetype=1 "
        "gfp_flags=GFP_KERNEL\n",
        pfn, order);
  }
  static std::string Zoneinfo(uint64_t present) {
    return absl::StrFormat(
        "Node 0, zone DMA32\n  pages free 0\n  spanned 65536\n  present %d\n"
        "  managed %d\n  start_pfn: 256\n",
        present, present);
  }
};

TEST_F(MemoryChangesTest, WithoutASourceThereAreNone) {
  const Recording recording = Read();
  EXPECT_THAT(recording.arriving, IsEmpty());
  EXPECT_THAT(recording.leaving, IsEmpty());
  EXPECT_THAT(recording.plugs, IsEmpty());
  EXPECT_EQ(recording.AllMemory(), recording.memory);
}

// In whole blocks of 4 MiB, since that is what the kernel onlines.
TEST_F(MemoryChangesTest, IomemAtTheEndSaysWhatArrivesAndLeaves) {
  Write("iomem.end",
        "00100000-07ffffff : System RAM\n40001000-47ffffff : System RAM\n");
  const Recording recording = Read();
  EXPECT_THAT(recording.arriving,
              ElementsAre(Range(kPlugged + 1024, kSection - 4 * kMiB)));
  EXPECT_THAT(recording.leaving, ElementsAre(Range(0x8000, kSection)));
  EXPECT_THAT(recording.AllMemory(),
              ElementsAre(Range(0x100, 256 * kMiB),
                          Range(kPlugged + 1024, kSection - 4 * kMiB)));
  EXPECT_THAT(recording.files, testing::Contains(Path("iomem.end")));
}

TEST_F(MemoryChangesTest, IomemWithoutRamSaysNothing) {
  Write("iomem.end", "00000000-00000fff : Reserved\n");
  EXPECT_THAT(Read().leaving, IsEmpty());
}

TEST_F(MemoryChangesTest, PlugsSayWhatArrivesAndWhen) {
  Write("plug.csv",
        "time_s,gpa,bytes\n"
        "37.5, 0x40000000, -134217728\n"
        "36.759,0x40000000,134217728\n");
  const Recording recording = Read();
  EXPECT_THAT(recording.arriving, ElementsAre(Range(kPlugged, kSection)));
  EXPECT_THAT(recording.leaving, IsEmpty());
  ASSERT_EQ(recording.plugs.size(), 2u);
  EXPECT_EQ(recording.plugs[0].time, milliseconds(36759));
  EXPECT_EQ(recording.plugs[0].range, Range(kPlugged, kSection));
  EXPECT_FALSE(recording.plugs[0].removed);
  EXPECT_EQ(recording.plugs[1].range, Range(kPlugged, kSection));
  EXPECT_TRUE(recording.plugs[1].removed);
}

TEST_F(MemoryChangesTest, PlugsThatIomemAtTheEndLacksAreADoubt) {
  const std::string memory = "00100000-100fffff : System RAM\n";
  const std::string plugs = "time_s,gpa,bytes\n36,0x40000000,134217728\n";
  Write("plug.csv", plugs);
  Write("iomem.end", memory + "40000000-47ffffff : System RAM\n");
  EXPECT_THAT(Read().doubts, IsEmpty());
  // The whole memory block of what was plugged.
  Write("iomem.end", memory + "40000000-4fffffff : System RAM\n");
  EXPECT_THAT(Read().doubts, IsEmpty());
  Write("iomem.end", memory + "50000000-57ffffff : System RAM\n");
  EXPECT_THAT(
      Read().doubts,
      ElementsAre("plug.csv has 128.00 MiB of RAM, from 0x40000000 on, that "
                  "iomem.end lacks",
                  "iomem.end has 128.00 MiB of RAM, from 0x50000000 on, that "
                  "plug.csv lacks"));
  Write("plug.csv", plugs + "37,0x40000000,-134217728\n");
  Write("iomem.end", memory);
  EXPECT_THAT(Read().doubts, IsEmpty());
}

TEST_F(MemoryChangesTest, AMalformedPlugIsNamed) {
  const auto error = [&](const std::string& plug) {
    return Error("plug.csv", "time_s,gpa,bytes\n" + plug + "\n");
  };
  const std::string place = Path("plug.csv") + ":2: \"";
  EXPECT_EQ(error("1,0x40000000"),
            place + "1,0x40000000\": expected numbers: time_s,gpa,bytes");
  EXPECT_EQ(error("1,0x40000000,0"),
            place +
                "1,0x40000000,0\": expected a range that is not empty and ends "
                "by 0x10000000000000");
  EXPECT_EQ(error("1,0xffffffffff000,8192"),
            place +
                "1,0xffffffffff000,8192\": expected a range that is not empty "
                "and ends by 0x10000000000000");
  EXPECT_EQ(error("1,0x40000100,4096"),
            place +
                "1,0x40000100,4096\": expected gpa and bytes of whole pages of "
                "4096 bytes");
}

// The guest has 4 MiB blocks from 0x400 on; one is ballooned, one is offline.
TEST_F(MemoryChangesTest, PageFlagsAtTheEndSayWhatWentOffline) {
  constexpr uint64_t kNoPage = uint64_t{1} << 20;
  constexpr uint64_t kOffline = uint64_t{1} << 23;
  constexpr uint64_t kLru = uint64_t{1} << 5;
  std::vector<uint64_t> flags(0x10100, kLru);
  const auto write = [&](const std::string& name) {
    Write(name, std::string_view(reinterpret_cast<const char*>(flags.data()),
                                 flags.size() * sizeof(flags[0])));
  };
  const auto set = [&](uint64_t start, uint64_t pages, uint64_t its) {
    std::fill_n(flags.begin() + static_cast<ptrdiff_t>(start), pages, its);
  };
  set(0x2000, 1024, kNoPage);  // all along
  write("kpageflags.start");
  set(0x800, 1024, kOffline);
  set(0xc00, 1023, kOffline);  // one page is in use
  set(0x8000, 0x8000, kNoPage);
  write("kpageflags.end");
  EXPECT_THAT(Read().offlined, IsEmpty()) << "without zoneinfo.end";
  Write("zoneinfo.end", Zoneinfo(65536));
  EXPECT_THAT(Read().leaving, ElementsAre(Range(0x800, 4 * kMiB)));
  EXPECT_THAT(Read().offlined, ElementsAre(Range(0x8000, kSection)));
  // The offline memory was unplugged as well.
  Write("iomem.end", "00100000-07ffffff : System RAM\n");
  EXPECT_THAT(Read().leaving,
              ElementsAre(Range(0x800, 4 * kMiB), Range(0x8000, kSection)));
  EXPECT_THAT(Read().offlined, IsEmpty());
}

// The user knows better than iomem, at the end too.
TEST_F(MemoryChangesTest, AMemoryMapThatIsGivenTakesThePlaceOfBoth) {
  Write("iomem.end", "40000000-47ffffff : System RAM\n");
  const Recording recording =
      ReadRecording(folder_.string(), {Range(0, kSection)}).value();
  EXPECT_THAT(recording.arriving, IsEmpty());
  EXPECT_THAT(recording.leaving, IsEmpty());
}

TEST_F(MemoryChangesTest, TheTraceShowsSectionsThatAreOnlined) {
  // The second section's first pages hold its memory map.
  const uint64_t second = kPlugged + 0x8000;
  Write("trace.txt", Free(0x200, 0) + Frees(kPlugged, 0x8000) +
                         Alloc(kPlugged, 0) + Free(second + 512, 9) +
                         Frees(second + 1024, 0x8000 - 1024));
  EXPECT_THAT(Read().arriving, ElementsAre(Range(kPlugged, 2 * kSection)));
  Write("zoneinfo.start", Zoneinfo(65536));
  Write("zoneinfo.end", Zoneinfo(65536));
  EXPECT_THAT(Read().arriving, IsEmpty()) << "no zone has grown";
  Write("zoneinfo.end", Zoneinfo(65536 + 0x10000));
  EXPECT_THAT(Read().arriving, ElementsAre(Range(kPlugged, 2 * kSection)));
}

// As events outside of a memory map that is wrong.
TEST_F(MemoryChangesTest, SoItDoesIfIomemAtTheEndHasNoMore) {
  Write("iomem.end", "00100000-100fffff : System RAM\n");
  Write("trace.txt", Frees(kPlugged, 32768));
  EXPECT_THAT(Read().arriving, ElementsAre(Range(kPlugged, kSection)));
}

TEST_F(MemoryChangesTest, OtherEventsOutsideOfMemoryShowNone) {
  const uint64_t pages = 0x8000;
  for (const std::string& trace :
       {Alloc(kPlugged, 10) + Frees(kPlugged, pages),  // was in use
        Frees(kPlugged, pages - 1024),                 // not to the end
        Frees(kPlugged + 1024, pages - 1024),          // not from the start
        Frees(kPlugged, 2048) + Frees(kPlugged + 3072, pages - 3072),  // a gap
        Frees(kPlugged, 2048) + Free(kPlugged, 0) +  // used in between
            Frees(kPlugged + 2048, pages - 2048)}) {
    Write("trace.txt", trace);
    EXPECT_THAT(Read().arriving, IsEmpty()) << trace.substr(0, 200);
  }
}

TEST_F(MemoryChangesTest, ReportsMustBeOfMemoryThatIsExplained) {
  const auto error = [&] {
    return Error("reports.csv", "time_s,gpa,bytes\n12,0x40000000,134217728\n");
  };
  EXPECT_THAT(error(),
              HasSubstr("expected a range that ends by 0x10100000, as iomem's "
                        "RAM"));
  Write("plug.csv", "time_s,gpa,bytes\n10,0x40000000,134217728\n");
  EXPECT_EQ(error(), "");
  std::filesystem::remove(Path("plug.csv"));
  Write("iomem.end",
        "00100000-100fffff : System RAM\n40000000-47ffffff : System RAM\n");
  EXPECT_EQ(error(), "");
  std::filesystem::remove(Path("iomem.end"));
  Write("trace.txt", Frees(kPlugged, 0x8000));
  EXPECT_EQ(error(), "");
}

}  // namespace
}  // namespace guestmm::memory_changes_test
