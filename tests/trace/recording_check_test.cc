// Files of a recording that do not fit one another.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/trace/recording_testing.h"

namespace guestmm::recording_check_test {
namespace {

// A guest of 256 MiB: 65,536 pages, of which the last `kFree` are free.
constexpr uint64_t kPages = 65536;
constexpr uint64_t kFree = 49152;

class RecordingCheckTest : public RecordingTest {
 protected:
  RecordingCheckTest() { WriteIomem(kPages); }

  void WriteIomem(uint64_t pages) const {
    Write("iomem", absl::StrFormat("00000000-%08x : System RAM\n",
                                   pages * kPageSize - 1));
  }
  void WriteZoneinfo(uint64_t first, uint64_t present, uint64_t free,
                     const char* name = "zoneinfo.start") const {
    Write(name,
          absl::StrFormat("Node 0, zone DMA\n  pages free %d\n  spanned %d\n"
                          "  present %d\n  managed %d\n  start_pfn: %d\n",
                          free, present, present, present, first));
  }
  // The last `free` pages are free, or of them only the heads of blocks of
  // `step` pages.
  void WriteKpageflags(uint64_t pages, uint64_t free, uint64_t step = 1,
                       const char* name = "kpageflags.start") const {
    std::vector<uint64_t> flags(pages, uint64_t{1} << 4);
    for (uint64_t pfn = pages - free; pfn < pages; pfn += step) {
      flags[pfn] = uint64_t{1} << 10;
    }
    Write(name, std::string_view(reinterpret_cast<const char*>(flags.data()),
                                 flags.size() * sizeof(uint64_t)));
  }
  std::string Error() const {
    return std::string(ReadRecording(folder_.string()).status().message());
  }
  const std::string iomem_ = Path("iomem");
  const std::string zoneinfo_ = Path("zoneinfo.start");
  const std::string kpageflags_ = Path("kpageflags.start");
};

TEST_F(RecordingCheckTest, FilesOfOneGuestFit) {
  WriteKpageflags(kPages, kFree);
  EXPECT_EQ(Error(), "");
  // Some of RAM is not present, and some has become free since.
  WriteZoneinfo(1, kPages - 100, kFree + 5000);
  EXPECT_EQ(Error(), "");
  // RAM that ends within a section, for pages of 16 KiB as well.
  WriteIomem(4096);
  WriteZoneinfo(0, 4096, 4000);
  WriteKpageflags(4096, 4000);
  EXPECT_EQ(Error(), "");
}

TEST_F(RecordingCheckTest, LargerPagesAreNoPagesOf4KiB) {
  const std::string end = "; only guests with pages of 4 KiB can be replayed";
  for (const int kib : {16, 64}) {
    WriteIomem(kPages * static_cast<uint64_t>(kib) / 4);
    const std::string why = absl::StrFormat(
        ": 65536 pages, but RAM ends at %d.00 GiB (%s): pages of %d KiB",
        kib / 16, iomem_, kib);
    WriteKpageflags(kPages, kFree);
    EXPECT_EQ(Error(), kpageflags_ + why + end);
    WriteZoneinfo(0, kPages, kFree);
    EXPECT_EQ(Error(), kpageflags_ + why + end);
    std::filesystem::remove(kpageflags_);
    EXPECT_EQ(Error(), zoneinfo_ + why + end);
    std::filesystem::remove(zoneinfo_);
  }
}

TEST_F(RecordingCheckTest, KpageflagsReachesTheEndOfRam) {
  WriteKpageflags(kPages / 2, kFree / 2);
  EXPECT_EQ(Error(), kpageflags_ +
                         ": 32768 pages, but RAM ends at page 65536 (" +
                         iomem_ + "): the file is truncated");
  WriteZoneinfo(0, kPages, kFree);
  EXPECT_EQ(Error(), kpageflags_ +
                         ": 32768 pages, but zones end at page 65536 (" +
                         zoneinfo_ + "): the file is truncated");
  Write("kpageflags.start", "");
  EXPECT_EQ(Error(), kpageflags_ + ": 0 pages, but zones end at page 65536 (" +
                         zoneinfo_ + "): the file is truncated");
}

TEST_F(RecordingCheckTest, SoDoesThatOfTheEnd) {
  const std::string end = Path("kpageflags.end");
  WriteKpageflags(kPages / 2, kFree / 2, 1, "kpageflags.end");
  EXPECT_EQ(Error(), "");
  WriteKpageflags(kPages, kFree);
  EXPECT_EQ(Error(), end +
                         ": 32768 pages, but the first state ends at page "
                         "65536 (" +
                         kpageflags_ + "): the file is truncated");
  WriteZoneinfo(0, kPages, kFree, "zoneinfo.end");
  EXPECT_EQ(Error(), end + ": 32768 pages, but zones end at page 65536 (" +
                         Path("zoneinfo.end") + "): the file is truncated");
  WriteKpageflags(kPages, kFree, 1, "kpageflags.end");
  EXPECT_EQ(Error(), "");
}

// Memory that is added later has no struct pages yet.
TEST_F(RecordingCheckTest, RamPastTheZonesNeedsNoPages) {
  WriteKpageflags(kPages, kFree);
  WriteZoneinfo(0, kPages, kFree);
  WriteIomem(2 * kPages);
  EXPECT_EQ(Error(), "");
}

TEST_F(RecordingCheckTest, TheHeadsOfFreeBlocksAreNotAllThatIsFree) {
  const std::string end =
      ": kernels before 4.6 mark only the first page of a free block; without "
      "this file all memory counts as in use at the start";
  WriteKpageflags(kPages, kFree, /*step=*/1024);
  EXPECT_EQ(Error(),
            kpageflags_ + ": 48 pages are free, and none beside another" + end);
  WriteZoneinfo(0, kPages, kFree);
  EXPECT_EQ(Error(), kpageflags_ +
                         ": 48 pages are free, and none beside another; " +
                         zoneinfo_ + ": 49152 are free" + end);
  // Fragmented to the last page.
  WriteKpageflags(kPages, kFree, /*step=*/2);
  WriteZoneinfo(0, kPages, kFree / 2);
  EXPECT_EQ(Error(), "");
}

TEST_F(RecordingCheckTest, FreePagesDifferByAQuarterOfAllAtMost) {
  WriteKpageflags(kPages, kFree);
  WriteZoneinfo(0, kPages, kFree - kPages / 4);
  EXPECT_EQ(Error(), "");
  WriteZoneinfo(0, kPages, kFree - kPages / 4 - 1);
  EXPECT_EQ(Error(), kpageflags_ + ": 49152 pages are free; " + zoneinfo_ +
                         ": 32767 are: must be of one moment, and differ by a "
                         "quarter of all pages at most");
}

TEST_F(RecordingCheckTest, FreePagesAreRam) {
  WriteKpageflags(kPages + kFree / 16, kFree);
  EXPECT_EQ(Error(), "");
  WriteKpageflags(2 * kPages, kFree);
  EXPECT_EQ(Error(), kpageflags_ + ": 49152 pages are free; " + iomem_ +
                         ": 0 of them are RAM");
}

TEST_F(RecordingCheckTest, AZoneHasRam) {
  WriteZoneinfo(kPages, kPages, kFree);
  EXPECT_EQ(Error(), zoneinfo_ +
                         ": Node 0, zone DMA: 65536 pages present from page "
                         "65536 to 131072; " +
                         iomem_ + ": 0 pages of RAM there");
}

TEST_F(RecordingCheckTest, RamIsPresent) {
  WriteIomem(2 * kPages);
  WriteZoneinfo(0, kPages, kFree);
  const std::string present = "; " + zoneinfo_ +
                              ": 65536 pages present in all zones: RAM is "
                              "named twice, or is not online; --memory MAP "
                              "says which is";
  EXPECT_EQ(Error(), iomem_ + ": 131072 pages of RAM" + present);
  WriteKpageflags(2 * kPages, kPages + kFree);
  WriteZoneinfo(0, kPages, kPages + kFree - 1);
  EXPECT_EQ(Error(), iomem_ + ": 131072 pages of RAM with a struct page in " +
                         kpageflags_ + present);
}

}  // namespace
}  // namespace guestmm::recording_check_test
