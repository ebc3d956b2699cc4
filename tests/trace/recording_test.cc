#include "guestmm/trace/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/trace/recording_testing.h"

namespace guestmm::recording_test {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kZoneinfo[] = R"(Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 2951
  pages free     3712
        boost    0
        min      87
        low      108
        high     129
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 1965, 2880, 2880, 2880)
      nr_free_pages 3712
  pagesets
    cpu: 0
              count: 12
              high:  54
              batch: 1
  vm stats threshold: 4
    cpu: 1
              count: 0
              high:  55
              batch: 2
  node_unreclaimable:  0
  start_pfn:           1
Node 1, zone  Movable
  pages free     0
        spanned  0
        managed  0
)";

TEST_F(RecordingTest, OfATraceAlone) {
  const Recording recording = Read();
  EXPECT_EQ(recording.trace_path, Path("trace.txt"));
  EXPECT_THAT(recording.memory, IsEmpty());
  EXPECT_THAT(recording.zones, IsEmpty());
  EXPECT_FALSE(recording.first);
  EXPECT_FALSE(recording.start);
  EXPECT_FALSE(recording.has_truth());
}

TEST_F(RecordingTest, TheKernelIsTheReleaseOfUname) {
  EXPECT_EQ(Read().kernel, "");
  Write("uname", "Linux (none) 6.12.95+deb12-amd64 #1 SMP Debian x86_64\n");
  EXPECT_EQ(Read().kernel, "6.12.95+deb12-amd64");
  Write("uname", "6.1.0-56-amd64\n");
  EXPECT_EQ(Read().kernel, "6.1.0-56-amd64");
  EXPECT_THAT(Error("uname", "Linux 6.1\n"), HasSubstr("uname:1: \"Linux 6.1"));
  EXPECT_THAT(Error("uname", "six.one\n"), HasSubstr("expected Linux HOST"));
}

TEST_F(RecordingTest, AFolderWithoutATraceIsNotFound) {
  fs::remove(folder_ / "trace.txt");
  const absl::Status status = ReadRecording(folder_.string()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(folder_.string()), HasSubstr("trace.txt")));
  EXPECT_EQ(ReadRecording(Path("none")).status().code(),
            absl::StatusCode::kNotFound);
  fs::create_directory(Path("raw"));
  EXPECT_EQ(ReadRecording(folder_.string()).status(),
            absl::NotFoundError(folder_.string() +
                                ": must be decoded first: "
                                "scripts/decode-trace " +
                                folder_.string()));
}

TEST_F(RecordingTest, ATracesRecordingIsInItsFolder) {
  Write("other.txt", "");
  Write("window.csv", "start_s,end_s\n21.64,54.82\n");
  const Recording recording = ReadRecording(Path("other.txt")).value();
  EXPECT_EQ(recording.trace_path, Path("other.txt"));
  EXPECT_EQ(recording.start, milliseconds(21640));
  EXPECT_EQ(recording.end, milliseconds(54820));
}

TEST_F(RecordingTest, RamIsWholePagesAscendingAndMerged) {
  Write("iomem",
        "100000000-13fffffff : System RAM\n"
        "  114a00000-115801d31 : Kernel code\n"
        "140000000-1bfffffff : System RAM (virtio_mem)\n"
        "00000000-00000fff : Reserved\n"
        "00001000-0009fbff : System RAM\n");
  EXPECT_THAT(Read().memory,
              ElementsAre(GpaRange{Gpa(0x1000), 0x9e000},
                          GpaRange{Gpa(0x100000000), 0xc0000000}));
}

TEST_F(RecordingTest, ZonesHaveTheirSpanMarksAndLists) {
  Write("zoneinfo.start", kZoneinfo);
  const Recording recording = Read();
  ASSERT_THAT(recording.zones, SizeIs(1));  // without the empty one
  const RecordedZone& zone = recording.zones[0];
  EXPECT_EQ(zone.node, 0);
  EXPECT_EQ(zone.name, "DMA");
  EXPECT_EQ(zone.span, (PfnRange{Pfn(1), Pfn(4096)}));
  EXPECT_EQ(zone.present, PageCount(3998));
  EXPECT_EQ(zone.managed, PageCount(3840));
  EXPECT_EQ(zone.min, PageCount(87));
  EXPECT_EQ(zone.low, PageCount(108));
  EXPECT_EQ(zone.high, PageCount(129));
  ASSERT_THAT(zone.per_cpu, SizeIs(2));
  EXPECT_EQ(zone.per_cpu[0].count, 12u);
  EXPECT_EQ(zone.per_cpu[1].high, 55u);
  EXPECT_EQ(zone.per_cpu[1].batch, 2u);
}

// E.g. if none of its struct pages is initialized yet.
TEST_F(RecordingTest, AZoneWithoutManagedPagesHasPresentOnes) {
  Write("zoneinfo.start",
        "Node 0, zone Normal\n present 512\n managed 0\n start_pfn: 0\n");
  Write("zoneinfo.end",
        "Node 0, zone Normal\n present 512\n managed 128\n start_pfn: 0\n");
  const Recording recording = Read();
  ASSERT_THAT(recording.zones, SizeIs(1));
  EXPECT_EQ(recording.zones[0].present, PageCount(512));
  ASSERT_THAT(recording.zones_at_end, SizeIs(1));
  EXPECT_EQ(recording.zones_at_end[0].managed, PageCount(128));
}

TEST_F(RecordingTest, TheStateOfAPageIsReadFromItsFlags) {
  constexpr uint64_t kReserved = uint64_t{1} << 32;
  constexpr uint64_t kZeroPage = uint64_t{1} << 24;
  const std::vector<uint64_t> flags = {1 << 20,
                                       1 << 3,
                                       1 << 10 | 1 << 3,
                                       1 << 10,
                                       0,
                                       1 << 11,
                                       1 << 23,
                                       kReserved,
                                       kReserved | kZeroPage,
                                       1 << 11 | 1 << 5,
                                       1 << 12 | 1 << 5,
                                       1 << 7};
  Write("kpageflags.start",
        std::string_view(reinterpret_cast<const char*>(flags.data()),
                         flags.size() * sizeof(uint64_t)));
  const Recording recording = Read();
  ASSERT_TRUE(recording.first);
  using State = RecordedPages::State;
  EXPECT_THAT(recording.first->states,
              ElementsAre(State::kAbsent, State::kInUse, State::kFree,
                          State::kFree, State::kNoFlags, State::kNoFlags,
                          State::kOffline, State::kReserved, State::kReserved,
                          State::kPageCache, State::kAnonymous, State::kSlab));
  EXPECT_THAT(recording.first->reported, ElementsAre(Pfn(2)));
}

TEST_F(RecordingTest, BuddyinfoIsASeries) {
  Write("buddyinfo.log",
        "21.64 27.43\n"
        "Node 0, zone      DMA      0      0      0      0      0      0      "
        "0      1      0      1      3 \n"
        "22.20 27.85\n");
  const Recording recording = Read();
  ASSERT_THAT(recording.buddyinfo, SizeIs(2));
  EXPECT_EQ(recording.buddyinfo[0].time, milliseconds(21640));
  ASSERT_THAT(recording.buddyinfo[0].zones, SizeIs(1));
  EXPECT_EQ(recording.buddyinfo[0].zones[0].name, "DMA");
  EXPECT_THAT(recording.buddyinfo[0].zones[0].blocks,
              ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 3));
  EXPECT_THAT(recording.buddyinfo[1].zones, IsEmpty());
}

TEST_F(RecordingTest, TheTruthIsInTheGuestsTime) {
  Write("reports.csv",
        "time_s,gpa,bytes\n6.709368,0x8c00000,4194304\n"
        "6.5,0x200000,2097152\n");
  Write("rss.csv", "time_s,resident_kib\n-4.287,30720\n");
  const Recording recording = Read();
  EXPECT_TRUE(recording.has_truth());
  ASSERT_THAT(recording.reports, SizeIs(2));
  EXPECT_EQ(recording.reports[0].time, milliseconds(6500));
  EXPECT_EQ(recording.reports[1].time, std::chrono::microseconds(6709368));
  EXPECT_EQ(recording.reports[1].range, (GpaRange{Gpa(0x8c00000), 4 * kMiB}));
  ASSERT_THAT(recording.resident, SizeIs(1));
  EXPECT_EQ(recording.resident[0].time, -milliseconds(4287));
  EXPECT_EQ(recording.resident[0].bytes, 30 * kMiB);
}

TEST_F(RecordingTest, AnErrorNamesFileAndLine) {
  EXPECT_EQ(Error("iomem", "\nnothing\n"),
            Path("iomem") +
                ":2: \"nothing\": expected a line as "
                "00100000-7fffffff : NAME");
  EXPECT_THAT(Error("iomem", "\xff\x1b[1m\n"),
              HasSubstr("iomem:1: \"??[1m\": expected a line"));
  EXPECT_THAT(Error("iomem", "00000000-00000000 : System RAM\n"),
              HasSubstr("root"));
  EXPECT_EQ(
      Error("zoneinfo.start", "Node 0, zone DMA\n  min x\n"),
      Path("zoneinfo.start") + ":2: \"  min x\": expected a number after min");
  EXPECT_THAT(Error("zoneinfo.start", "  min 1\n"), HasSubstr("a zone before"));
  EXPECT_THAT(Error("zoneinfo.start", "Node 0, zone DMA\n  count: 1\n"),
              HasSubstr("cpu:"));
  EXPECT_THAT(Error("kpageflags.start", "1234567890"),
              HasSubstr("10 bytes: expected 8 for each page"));
  EXPECT_THAT(Error("buddyinfo.log", "1.0 2.0\nNode 0, zone DMA 1 2\n"),
              HasSubstr(":2: \"Node 0, zone DMA 1 2\": expected 11 numbers"));
  EXPECT_THAT(Error("buddyinfo.log", "Node 0, zone DMA 1 2\n"),
              HasSubstr(":1:"));
  EXPECT_THAT(Error("window.csv", ""),
              EndsWith("window.csv: is empty: expected the heading "
                       "start_s,end_s"));
  EXPECT_THAT(Error("window.csv", "a,b\n"), HasSubstr("start_s,end_s"));
  EXPECT_EQ(Error("window.csv", "start_s,end_s\n80,20\n"),
            Path("window.csv") +
                ":2: \"80,20\": expected an end_s that is not before start_s");
  EXPECT_THAT(Error("window.csv", "start_s,end_s\n1,2\n3,4\n"),
              HasSubstr(":3: \"3,4\": expected one line after the heading"));
  EXPECT_THAT(
      Error("reports.csv", "time_s,gpa,bytes\n1.5,0x10\n"),
      HasSubstr(":2: \"1.5,0x10\": expected numbers: time_s,gpa,bytes"));
  EXPECT_THAT(Error("rss.csv", "time_s,resident_kib\n1.5,5MB\n"),
              HasSubstr(":2:"));
}

// A batch of 0, or of 0 modulo 2^32, would never refill a list.
TEST_F(RecordingTest, MarksAreWithinAKernelsBounds) {
  const auto error = [this](const std::string& mark) {
    return Error("zoneinfo.start", "Node 0, zone DMA\n managed 9\n cpu: 0\n " +
                                       mark + "\n start_pfn: 0\n");
  };
  EXPECT_EQ(error("batch: 0"),
            Path("zoneinfo.start") +
                ":4: \" batch: 0\": expected 1 to 1048576 after batch:");
  EXPECT_THAT(error("batch: 4294967296"),
              HasSubstr(":4: \" batch: 4294967296\": expected 1 to 1048576"));
  EXPECT_THAT(error("high: 1048577"),
              HasSubstr("expected 0 to 1048576 after high:"));
  for (const char* const good :
       {"batch: 1", "batch: 1048576", "high: 0\n batch: 1",
        "high: 1048576\n batch: 1"}) {
    EXPECT_EQ(error(good), "") << good;
  }
  EXPECT_EQ(error("high: 5"),
            Path("zoneinfo.start") +
                ": Node 0, zone DMA, cpu 0: must have a batch: of 1 or more");
}

TEST_F(RecordingTest, WatermarksAreWithinAnAllocatorsBounds) {
  EXPECT_EQ(Error("zoneinfo.start",
                  "Node 0, zone DMA\n min 268435456\nNode 0, zone DMA32\n"
                  " min 1\n"),
            Path("zoneinfo.start") +
                ":4: \" min 1\": expected a min of 268435456 pages at most, "
                "of all zones together");
  EXPECT_THAT(Error("zoneinfo.start", "Node 0, zone DMA\n low 1099511627777\n"),
              HasSubstr(":2: \" low 1099511627777\": expected 0 to "
                        "1099511627776 after low"));
  EXPECT_EQ(Error("zoneinfo.start", "Node 0, zone DMA\n min 268435456\n"), "");
}

// A wrong range would count, in units of 2 MiB, as the real guest's.
TEST_F(RecordingTest, AReportIsWithinTheGuestsMemory) {
  const auto error = [this](const std::string& report) {
    return Error("reports.csv", "time_s,gpa,bytes\n30.0," + report + "\n");
  };
  const std::string place = Path("reports.csv") + ":2: \"30.0,";
  EXPECT_EQ(error("0xfffffffffff00,512"),
            place +
                "0xfffffffffff00,512\": expected a range that ends by "
                "0x10000000000000");
  EXPECT_EQ(error("0x0,17592186044416"),
            place +
                "0x0,17592186044416\": expected 1099511627776 bytes at "
                "most");
  EXPECT_EQ(error("0xffffffffff000,4096"), "");
  Write("iomem",
        "00001000-001fffff : System RAM\n00400000-005fffff : System RAM\n");
  EXPECT_EQ(error("0x500000,1048577"),
            place +
                "0x500000,1048577\": expected a range that ends by "
                "0x600000, as iomem's RAM");
  EXPECT_EQ(error("0x0,4190209"),
            place +
                "0x0,4190209\": expected 4190208 bytes at most: all of "
                "iomem's RAM");
  EXPECT_EQ(error("0x500000,1048576"), "");
  // As awk prints 0x123000 with too few digits.
  EXPECT_EQ(Error("reports.csv", "time_s,gpa,bytes\n1,1.19194e+06,4096\n"),
            Path("reports.csv") +
                ":2: \"1,1.19194e+06,4096\": expected gpa and bytes of whole "
                "pages of 4096 bytes");
}

// As Python, JavaScript and awk print what they compute.
TEST_F(RecordingTest, NumbersMayBeOfAnyForm) {
  Write("reports.csv",
        "time_s, gpa, bytes\n"
        "103.00000000000001, 134217728.0, 2.097152e+06\n"
        " 1.0450000000000001e2 ,0x8200000,\t2097152\n");
  Write("rss.csv", "time_s,resident_kib\n1e2,6.5536e+04\n-0.5,1.5");
  Write("window.csv", "start_s,end_s\n99.9999999996,1.07e+02\n");
  Write("buddyinfo.log", "100.12345678901234 2\n");
  const Recording recording = Read();
  ASSERT_THAT(recording.reports, SizeIs(2));
  EXPECT_EQ(recording.reports[0].time, std::chrono::seconds(103));
  EXPECT_EQ(recording.reports[0].range, (GpaRange{Gpa(0x8000000), 2 * kMiB}));
  EXPECT_EQ(recording.reports[1].time, milliseconds(104500));
  ASSERT_THAT(recording.resident, SizeIs(2));
  EXPECT_EQ(recording.resident[0].time, -milliseconds(500));
  EXPECT_EQ(recording.resident[0].bytes, 1536u);
  EXPECT_EQ(recording.resident[1].bytes, 64 * kMiB);
  EXPECT_EQ(recording.start, std::chrono::seconds(100));
  EXPECT_EQ(recording.end, std::chrono::seconds(107));
  EXPECT_EQ(recording.buddyinfo[0].time, Nanoseconds(100'123'456'789));
  for (const char* const bad :
       {"nan,4", "inf,4", "+1,4", "0x10,4", "9000000001,4", "1,-4", "1,nan",
        "1,4 5", "1", "1,4,5", "1,", "1e,4"}) {
    EXPECT_THAT(Error("rss.csv", absl::StrCat("time_s,resident_kib\n", bad)),
                HasSubstr("expected numbers: time_s,resident_kib"))
        << bad;
  }
}

TEST_F(RecordingTest, ALaterLayoutIsRefused) {
  EXPECT_EQ(Error("layout", "3\n"),
            Path("layout") +
                ":1: \"3\": expected 1 to 2: later layouts need a later "
                "version of guestmm");
  EXPECT_NE(Error("layout", "0\n"), "");
  EXPECT_NE(Error("layout", "\n"), "");
  EXPECT_EQ(Error("layout", "2\n"), "");
  EXPECT_EQ(Error("layout", "1\n"), "");
}

TEST_F(RecordingTest, APageIsOf4KiB) {
  EXPECT_EQ(Error("page_size", "65536\n"),
            Path("page_size") +
                ":1: \"65536\": expected 4096: only guests with pages of 4 "
                "KiB can be replayed");
  EXPECT_EQ(Error("page_size", "4096\n"), "");
}

TEST_F(RecordingTest, RamThatIsListedAgainCountsOnce) {
  Write("iomem",
        "00001000-0fffffff : System RAM\n"
        "  08000000-0bffffff : System RAM (kmem)\n"
        "00001000-0fffffff : System RAM\n");
  EXPECT_THAT(Read().memory, ElementsAre(GpaRange{Gpa(0x1000), 0xffff000}));
  EXPECT_EQ(Error("iomem",
                  "00001000-0fffffff : System RAM\n"
                  "08000000-17ffffff : System RAM\n"),
            Path("iomem") + ":1: RAM from 0x1000 to 0xfffffff; " +
                Path("iomem") +
                ":2: RAM from 0x8000000 to 0x17ffffff: must not overlap unless "
                "one is within the other");
}

TEST_F(RecordingTest, ATruncatedZoneinfoIsNoticed) {
  EXPECT_EQ(Error("zoneinfo.start", ""),
            Path("zoneinfo.start") + ": no zone: the file is truncated");
  EXPECT_EQ(Error("zoneinfo.end", "Node 0, zone DMA\n present 9\n"),
            Path("zoneinfo.end") +
                ": Node 0, zone DMA: must end with start_pfn: the file is "
                "truncated");
}

// As in old kernels: not one of them is uninitialized.
TEST_F(RecordingTest, WithoutALineOfManagedPagesAllAre) {
  Write("zoneinfo.start",
        "Node 0, zone DMA\n pages free 3\n present 9\n start_pfn: 0\n");
  const Recording recording = Read();
  EXPECT_EQ(recording.zones[0].managed, PageCount(9));
  EXPECT_EQ(recording.zones[0].free, PageCount(3));
}

// A FIFO would be waited for.
TEST_F(RecordingTest, AFileMustBeARegularOne) {
  ASSERT_EQ(mkfifo(Path("iomem").c_str(), 0600), 0);
  EXPECT_EQ(ReadRecording(folder_.string()).status().message(),
            Path("iomem") + ": must be a regular file");
}

TEST_F(RecordingTest, AMemoryMapMayBeGivenInPlaceOfIomem) {
  Write("iomem", "damaged\n");
  const GpaRange memory = {Gpa(0), kMiB};
  EXPECT_THAT(ReadRecording(folder_.string(), {memory})->memory,
              ElementsAre(memory));
}

TEST_F(RecordingTest, ResidentMemoryIsBounded) {
  EXPECT_EQ(Error("rss.csv", "time_s,resident_kib\n1.5,4398046511105\n"),
            Path("rss.csv") +
                ":2: \"1.5,4398046511105\": expected 4398046511104 KiB at "
                "most");
  EXPECT_EQ(Error("rss.csv", "time_s,resident_kib\n1.5,4398046511104\n"), "");
}

}  // namespace
}  // namespace guestmm::recording_test
