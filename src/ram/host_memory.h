#ifndef GUESTMM_SRC_RAM_HOST_MEMORY_H_
#define GUESTMM_SRC_RAM_HOST_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// "region 0x40000000 + 2.00 MiB", for messages.
std::string RegionText(GpaRange range);

// See GuestRam::discard_granule.
uint64_t DiscardGranule(MemorySource source);

// A file passed by another process, to be mapped as guest RAM.
struct ForeignFile {
  MemorySource source;
  uint64_t bytes;
};

// The system calls behind guest RAM: memory for its regions, from one source.
// Const methods are thread-safe; others need external locking.
class HostMemory {
 public:
  // The part of GuestRam::Create that does not depend on regions; its errors.
  // REQUIRES: valid regions.
  static absl::StatusOr<std::unique_ptr<HostMemory>> Create(
      const GuestRamOptions& options);

  // Memory created by another process; no regions yet.
  static absl::StatusOr<std::unique_ptr<HostMemory>> CreateForeign(
      const ForeignRamOptions& options);

  // Leaves mappings in place.
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  MemorySource source() const {
    return source_.load(std::memory_order_relaxed);
  }
  bool foreign() const { return foreign_.has_value(); }
  // REQUIRES: foreign(), and every region is of it.
  void SetForeignSource(MemorySource source) {
    source_.store(source, std::memory_order_relaxed);
  }
  HugePages huge_pages() const { return huge_pages_; }
  // -1 if the source has no memfd, or if it belongs to another process.
  int memfd() const { return IsMemfd() ? file_fd_ : -1; }

  // Maps memory for `range`, with hva and gpa equal modulo a huge page. It
  // reads as zeroes, or, with kPrivateFile and an offset, as the file from
  // there on. ResourceExhausted if the host refuses. REQUIRES: a valid range,
  // no part of which is mapped.
  absl::StatusOr<std::byte*> Map(GpaRange range,
                                 std::optional<uint64_t> file_offset);
  // InvalidArgument unless GuestRam::AdoptRegion accepts the file; Unavailable
  // names a system call that failed. Never waits for the file's creator.
  absl::StatusOr<ForeignFile> InspectForeign(int fd) const;
  // Maps `fd` from `offset` on in the same way. REQUIRES also: foreign(), and
  // that InspectForeign and the size of the file allow it.
  absl::StatusOr<std::byte*> MapForeign(GpaRange range, int fd,
                                        uint64_t offset) const;
  // Unmaps a mapping or a part of one. ResourceExhausted, with no effect, if
  // the host refuses.
  absl::Status Unmap(std::byte* hva, GpaRange range) const;
  // Punches a hole in the memfd, with nothing reserved, since a memfd keeps
  // memory that is not mapped. No effect on other sources and foreign memory.
  // Internal if the host refuses.
  absl::Status Release(GpaRange range) const;

  // See GuestRam::ResidentBytes. REQUIRES: whole host pages that stay mapped.
  absl::StatusOr<uint64_t> ResidentBytes(const std::byte* hva,
                                         uint64_t bytes) const;

 private:
  // `foreign` is unset for memory of our own.
  HostMemory(MemorySource source, HugePages huge_pages,
             std::optional<ForeignRamOptions> foreign)
      : source_(source), huge_pages_(huge_pages), foreign_(foreign) {}

  bool IsMemfd() const {
    return source() == MemorySource::kSharedMemfd ||
           source() == MemorySource::kHugetlb;
  }
  absl::Status OpenPagemap();
  absl::Status OpenFile(const std::string& path, uint64_t bytes);
  absl::Status MakeMemfd();
  // Extends the memfd to the end of `range` if needed, and empties `range`.
  absl::Status MakeRoom(GpaRange range);
  // fallocate() of the memfd.
  int Fallocate(int mode, Gpa from, uint64_t bytes) const;
  absl::Status PunchHole(GpaRange range) const;
  // Counts pages whose pagemap entries have all bits of `set` and none of
  // `clear`.
  absl::StatusOr<uint64_t> CountPagemap(const std::byte* hva, uint64_t pages,
                                        uint64_t set, uint64_t clear) const;

  std::atomic<MemorySource> source_;
  const HugePages huge_pages_;
  const std::optional<ForeignRamOptions> foreign_;
  int pagemap_fd_ = -1;
  // The memfd or the file; -1 with kAnonymous and for foreign memory.
  int file_fd_ = -1;
  uint64_t memfd_bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_RAM_HOST_MEMORY_H_
