#include "guestmm/ram/guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// The alignment that guest and host addresses share: one huge page.
constexpr uint64_t kHvaAlignment = 2 * kMiB;

// Bits of a /proc/PID/pagemap entry (Linux, admin-guide/mm/pagemap).
constexpr uint64_t kPagemapExclusive = uint64_t{1} << 56;
constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;

std::string Describe(GpaRange range) {
  return absl::StrFormat("region 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

std::string ErrnoText(int error) { return std::strerror(error); }

absl::Status CheckRegions(const std::vector<GpaRange>& regions) {
  if (regions.empty()) {
    return absl::InvalidArgumentError("guest RAM has no region");
  }
  const uint64_t granule = std::max(kPageSize, HostPageSize());
  Gpa free_from(0);
  for (const GpaRange& range : regions) {
    if (range.bytes == 0 || range.bytes % granule != 0 ||
        !range.gpa.IsAligned(granule)) {
      return absl::InvalidArgumentError(absl::StrCat(
          Describe(range), ": start and size must be multiples of ",
          FormatBytes(granule), ", and the size not zero"));
    }
    if (range.gpa.value() + range.bytes < range.gpa.value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          Describe(range), ": runs past the end of the address space"));
    }
    if (range.gpa < free_from) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(range),
                       ": regions must be in ascending order and not overlap"));
    }
    free_from = range.gpa + range.bytes;
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t HostPageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

absl::StatusOr<GuestRam::Region> GuestRam::Region::Map(GpaRange range,
                                                       HugePages huge_pages) {
  const auto failed = [&](const char* call) {
    return absl::ResourceExhaustedError(absl::StrCat(
        Describe(range), ": ", call, " failed: ", ErrnoText(errno)));
  };
  if (range.bytes > ~uint64_t{0} - kHvaAlignment) {
    errno = ENOMEM;
    return failed("mmap");
  }
  // Reserve one alignment more than needed, then give back what sticks out.
  const uint64_t reserved = range.bytes + kHvaAlignment;
  void* const mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return failed("mmap");
  auto* const start = static_cast<std::byte*>(mapped);
  const uint64_t lead =
      (range.gpa.value() - reinterpret_cast<uintptr_t>(start)) % kHvaAlignment;
  std::byte* const hva = start + lead;
  if (lead > 0) munmap(start, lead);
  munmap(hva + range.bytes, kHvaAlignment - lead);

  Region region(range, hva);
  if (huge_pages != HugePages::kHostDefault) {
    const int advice =
        huge_pages == HugePages::kAdvise ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (madvise(hva, range.bytes, advice) != 0) {
      return failed("madvise for transparent huge pages");
    }
  }
  return region;
}

GuestRam::Region::Region(Region&& other) noexcept
    : range_(other.range_), hva_(std::exchange(other.hva_, nullptr)) {}

GuestRam::Region::~Region() {
  if (hva_ != nullptr) munmap(hva_, range_.bytes);
}

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(
    const GuestRamOptions& options) {
  if (absl::Status status = CheckRegions(options.regions); !status.ok()) {
    return status;
  }
  std::vector<Region> regions;
  for (const GpaRange& range : options.regions) {
    absl::StatusOr<Region> region = Region::Map(range, options.huge_pages);
    if (!region.ok()) return region.status();
    regions.push_back(*std::move(region));
  }
  const int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap_fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("/proc/self/pagemap: ", ErrnoText(errno)));
  }
  return std::unique_ptr<GuestRam>(
      new GuestRam(options.regions, std::move(regions), pagemap_fd));
}

GuestRam::GuestRam(std::vector<GpaRange> ranges, std::vector<Region> regions,
                   int pagemap_fd)
    : ranges_(std::move(ranges)),
      regions_(std::move(regions)),
      pagemap_fd_(pagemap_fd) {}

GuestRam::~GuestRam() { close(pagemap_fd_); }

std::optional<std::span<std::byte>> GuestRam::Translate(GpaRange range) const {
  for (const Region& region : regions_) {
    if (range.gpa < region.range().gpa) break;
    const uint64_t offset = range.gpa - region.range().gpa;
    // Subtractions, since gpa + bytes may overflow.
    if (offset >= region.range().bytes) continue;
    if (range.bytes == 0 || range.bytes > region.range().bytes - offset) break;
    return std::span(region.hva() + offset, range.bytes);
  }
  return std::nullopt;
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytes(GpaRange range) const {
  const std::optional<std::span<std::byte>> bytes = Translate(range);
  const uint64_t page = HostPageSize();
  if (!bytes || range.bytes % page != 0 || !range.gpa.IsAligned(page)) {
    return absl::InvalidArgumentError(absl::StrCat(
        Describe(range), ": not whole host pages within one region"));
  }
  std::array<uint64_t, 4096> entries;
  uint64_t next = reinterpret_cast<uintptr_t>(bytes->data()) / page;
  uint64_t left = range.bytes / page;
  uint64_t resident = 0;
  while (left > 0) {
    const uint64_t wanted = std::min<uint64_t>(left, entries.size());
    const ssize_t got =
        pread(pagemap_fd_, entries.data(), wanted * sizeof(uint64_t),
              static_cast<off_t>(next * sizeof(uint64_t)));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || got % static_cast<ssize_t>(sizeof(uint64_t)) != 0) {
      return absl::UnavailableError(absl::StrCat(
          "/proc/self/pagemap: ", got < 0 ? ErrnoText(errno) : "short read"));
    }
    const uint64_t count = static_cast<uint64_t>(got) / sizeof(uint64_t);
    constexpr uint64_t kOurs = kPagemapPresent | kPagemapExclusive;
    for (uint64_t i = 0; i < count; ++i) {
      resident += (entries[i] & kOurs) == kOurs ? 1 : 0;
    }
    next += count;
    left -= count;
  }
  return resident * page;
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytes() const {
  uint64_t total = 0;
  for (const GpaRange& range : ranges_) {
    const absl::StatusOr<uint64_t> resident = ResidentBytes(range);
    if (!resident.ok()) return resident;
    total += *resident;
  }
  return total;
}

uint64_t GuestRam::bytes() const {
  uint64_t total = 0;
  for (const GpaRange& range : ranges_) total += range.bytes;
  return total;
}

}  // namespace guestmm
