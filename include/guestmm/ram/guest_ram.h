#ifndef GUESTMM_RAM_GUEST_RAM_H_
#define GUESTMM_RAM_GUEST_RAM_H_

// The guest's memory on the real host: one mapping for each region of
// guest-physical addresses.
//
//   gpa 0              3 GiB         4 GiB          6 GiB
//       |--- region 0 ---|   (hole)    |-- region 1 --|
//              |                             |
//       |- mapping at hva 0 -|        |- mapping at hva 1 -|
//
// hva and gpa are equal modulo 2 MiB, so that a huge page of the guest can be
// a huge page of the host.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"

namespace guestmm {

// The page size of the machine this runs on, in bytes.
uint64_t HostPageSize();

// Whether the host may back guest RAM with transparent huge pages.
enum class HugePages {
  kHostDefault,  // as the host's THP setting says
  kAdvise,       // madvise(MADV_HUGEPAGE)
  kForbid,       // madvise(MADV_NOHUGEPAGE)
};

struct GuestRamOptions {
  // Non-empty, ascending, disjoint, in whole pages of guest and host.
  std::vector<GpaRange> regions = {};
  HugePages huge_pages = HugePages::kHostDefault;
};

class GuestRam {
 public:
  // Maps every region. InvalidArgument names the region that breaks a rule of
  // GuestRamOptions; ResourceExhausted names the one the host would not map.
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(
      const GuestRamOptions& options);

  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  // The bytes behind `range`. None if it is empty, runs past the end of the
  // address space, or does not lie within one region.
  std::optional<std::span<std::byte>> Translate(GpaRange range) const;

  // How much of `range` the host holds in memory, in bytes, as its kernel
  // reports it: /proc/self/pagemap, pages present and this process's alone, so
  // neither the shared zero page nor swapped pages count, nor, while it lives,
  // what a forked child shares. InvalidArgument if `range` does not lie within
  // one region or is not in whole host pages; else the error of the read.
  absl::StatusOr<uint64_t> ResidentBytes(GpaRange range) const;
  // The same over all of guest RAM.
  absl::StatusOr<uint64_t> ResidentBytes() const;

  const std::vector<GpaRange>& regions() const { return ranges_; }
  // The sum of the regions' sizes.
  uint64_t bytes() const;

 private:
  // One mapping, of private anonymous memory that is reserved but not
  // committed. Unmapped with it. Other backings will be other ways to make one.
  class Region {
   public:
    static absl::StatusOr<Region> Map(GpaRange range, HugePages huge_pages);
    Region(Region&& other) noexcept;
    Region& operator=(Region&&) = delete;
    ~Region();

    GpaRange range() const { return range_; }
    std::byte* hva() const { return hva_; }

   private:
    Region(GpaRange range, std::byte* hva) : range_(range), hva_(hva) {}

    GpaRange range_;
    std::byte* hva_;
  };

  GuestRam(std::vector<GpaRange> ranges, std::vector<Region> regions,
           int pagemap_fd);

  std::vector<GpaRange> ranges_;
  std::vector<Region> regions_;
  int pagemap_fd_;
};

}  // namespace guestmm

#endif  // GUESTMM_RAM_GUEST_RAM_H_
