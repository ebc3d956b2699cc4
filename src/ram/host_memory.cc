#include "src/ram/host_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "src/base/uninterrupted.h"
#include "src/ram/foreign_mappings.h"

namespace guestmm {
namespace {

constexpr uint64_t kHugePageBytes = 2 * kMiB;
// The alignment that guest and host addresses share: one huge page.
constexpr uint64_t kHvaAlignment = kHugePageBytes;

// Bits of a /proc/PID/pagemap entry (Linux, admin-guide/mm/pagemap).
constexpr uint64_t kPagemapExclusive = uint64_t{1} << 56;
constexpr uint64_t kPagemapFileOrShared = uint64_t{1} << 61;
constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;

std::string LastError() { return std::strerror(errno); }

absl::Status RegionRefused(GpaRange range, const char* call) {
  return absl::ResourceExhaustedError(
      absl::StrCat(RegionText(range), ": ", call, " failed: ", LastError()));
}

absl::Status TooManyRegions(GpaRange range) {
  return absl::ResourceExhaustedError(absl::StrCat(
      RegionText(range), ": this process has too many foreign regions"));
}

absl::Status UnmapRegion(std::byte* hva, GpaRange range) {
  if (munmap(hva, range.bytes) == 0) return absl::OkStatus();
  return RegionRefused(range, "munmap");
}

int Advise(std::byte* hva, uint64_t bytes, int advice) {
  return Uninterrupted([&] { return madvise(hva, bytes, advice); });
}

// Reserves unmapped addresses for `range`, with hva and gpa equal modulo a huge
// page.
absl::StatusOr<std::byte*> ReserveAddresses(GpaRange range) {
  if (range.bytes > ~uint64_t{0} - kHvaAlignment) {
    errno = ENOMEM;
    return RegionRefused(range, "mmap");
  }
  // Reserve one alignment more than needed, then release both ends.
  const uint64_t reserved = range.bytes + kHvaAlignment;
  void* const mapped = mmap(nullptr, reserved, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return RegionRefused(range, "mmap");
  auto* const start = static_cast<std::byte*>(mapped);
  const uint64_t lead =
      (range.gpa.value() - reinterpret_cast<uintptr_t>(start)) % kHvaAlignment;
  std::byte* const hva = start + lead;
  if (lead > 0) munmap(start, lead);
  munmap(hva + range.bytes, kHvaAlignment - lead);
  return hva;
}

}  // namespace

std::string RegionText(GpaRange range) {
  return absl::StrFormat("region 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

uint64_t HostPageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

uint64_t DiscardGranule(MemorySource source) {
  return source == MemorySource::kHugetlb ? kHugePageBytes : HostPageSize();
}

std::optional<int> HugePageAdvice(HugePages huge_pages) {
  switch (huge_pages) {
    case HugePages::kHostDefault:
      return std::nullopt;
    case HugePages::kAdvise:
      return MADV_HUGEPAGE;
    case HugePages::kForbid:
      return MADV_NOHUGEPAGE;
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<HostMemory>> HostMemory::Create(
    const GuestRamOptions& options) {
  const bool has_file = options.source == MemorySource::kPrivateFile;
  if (has_file == options.file.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of source %s with file \"%s\": %s", Name(options.source),
        options.file, has_file ? "must name a file" : "must be empty"));
  }
  if (options.source == MemorySource::kHugetlb &&
      options.huge_pages != HugePages::kHostDefault) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of source %s with huge_pages %s: its pages are huge "
        "already, must be kHostDefault",
        Name(options.source),
        options.huge_pages == HugePages::kAdvise ? "kAdvise" : "kForbid"));
  }
  std::unique_ptr<HostMemory> memory(
      new HostMemory(options.source, options.huge_pages, std::nullopt));
  absl::Status status = memory->OpenPagemap();
  if (!status.ok()) return status;
  if (has_file) {
    uint64_t bytes = 0;
    for (const GpaRange& range : options.regions) bytes += range.bytes;
    status = memory->OpenFile(options.file, bytes);
  } else if (memory->IsMemfd()) {
    status = memory->MakeMemfd();
  }
  if (!status.ok()) return status;
  return memory;
}

absl::StatusOr<std::unique_ptr<HostMemory>> HostMemory::CreateForeign(
    const ForeignRamOptions& options) {
  std::unique_ptr<HostMemory> memory(new HostMemory(
      MemorySource::kSharedMemfd, HugePages::kHostDefault, options));
  if (absl::Status status = memory->OpenPagemap(); !status.ok()) return status;
  return memory;
}

absl::StatusOr<ForeignFile> HostMemory::InspectForeign(int fd) const {
  const bool allow_unsealed = foreign_ && foreign_->allow_unsealed;
  const auto refuse = [](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory from another process: ", why));
  };
  // Checked first, since only files on tmpfs and hugetlbfs have seals, and the
  // kernel answers this without the file system. Other calls on a file that a
  // process implements (FUSE) would wait for that process.
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) {
    return refuse(
        absl::StrCat("takes no seals: must be a memfd",
                     allow_unsealed ? " or a file on tmpfs or hugetlbfs" : ""));
  }
  struct statfs file_system = {};
  if (fstatfs(fd, &file_system) != 0) {
    return absl::UnavailableError(
        absl::StrCat("memory from another process: fstatfs: ", LastError()));
  }
  const auto magic = static_cast<uint32_t>(file_system.f_type);
  if (magic != TMPFS_MAGIC && magic != HUGETLBFS_MAGIC) {
    return refuse(absl::StrFormat(
        "on a file system of type 0x%x: must be a memfd", magic));
  }
  if (magic == HUGETLBFS_MAGIC &&
      static_cast<uint64_t>(file_system.f_bsize) != kHugePageBytes) {
    return refuse(
        absl::StrFormat("huge pages of %s: must be of %s",
                        FormatBytes(static_cast<uint64_t>(file_system.f_bsize)),
                        FormatBytes(kHugePageBytes)));
  }
  if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
    return refuse("not open for reading and writing");
  }
  // Files on tmpfs that are not memfds have F_SEAL_SEAL and so fail here.
  if (!allow_unsealed && (seals & F_SEAL_SHRINK) == 0) {
    return refuse(
        "not sealed with F_SEAL_SHRINK: it could get shorter while it is used");
  }
  if ((seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) {
    return refuse("sealed against writing");
  }
  // From here on a sealed file cannot get shorter.
  struct stat file = {};
  if (fstat(fd, &file) != 0) {
    return absl::UnavailableError(
        absl::StrCat("memory from another process: fstat: ", LastError()));
  }
  return ForeignFile{.source = magic == HUGETLBFS_MAGIC
                                   ? MemorySource::kHugetlb
                                   : MemorySource::kSharedMemfd,
                     .bytes = static_cast<uint64_t>(file.st_size)};
}

absl::Status HostMemory::OpenPagemap() {
  pagemap_fd_ = Uninterrupted(
      [] { return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); });
  if (pagemap_fd_ >= 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("/proc/self/pagemap: ", LastError()));
}

HostMemory::~HostMemory() {
  if (pagemap_fd_ >= 0) close(pagemap_fd_);
  if (file_fd_ >= 0) close(file_fd_);
}

absl::Status HostMemory::OpenFile(const std::string& path, uint64_t bytes) {
  // O_NONBLOCK: opening a pipe would wait for its other end.
  file_fd_ = Uninterrupted(
      [&] { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  struct stat file = {};
  if (file_fd_ < 0 || fstat(file_fd_, &file) != 0) {
    return absl::UnavailableError(
        absl::StrCat("guest RAM file ", path, ": ", LastError()));
  }
  if (!S_ISREG(file.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest RAM file ", path, ": not a regular file"));
  }
  if (static_cast<uint64_t>(file.st_size) < bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest RAM file ", path, ": holds ",
                     FormatBytes(static_cast<uint64_t>(file.st_size)),
                     ", the regions are ", FormatBytes(bytes)));
  }
  return absl::OkStatus();
}

absl::Status HostMemory::MakeMemfd() {
  const unsigned flags =
      MFD_CLOEXEC | MFD_ALLOW_SEALING |
      (source() == MemorySource::kHugetlb ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
  file_fd_ = memfd_create("guest-ram", flags);
  // Sealed so that another process can map it without fear of SIGBUS.
  if (file_fd_ >= 0 && fcntl(file_fd_, F_ADD_SEALS, F_SEAL_SHRINK) == 0) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrFormat(
      "guest RAM of source %s: %s failed: %s", Name(source()),
      file_fd_ < 0 ? "memfd_create" : "sealing of the memfd", LastError()));
}

absl::Status HostMemory::MakeRoom(GpaRange range) {
  const uint64_t end = range.gpa.value() + range.bytes;
  if (end > memfd_bytes_) {
    if (Uninterrupted([&] {
          return ftruncate(file_fd_, static_cast<off_t>(end));
        }) != 0) {
      return RegionRefused(range, "ftruncate of the memfd");
    }
    memfd_bytes_ = end;
  }
  // Other processes with the memfd may have written where there was no region.
  return PunchHole(range);
}

absl::StatusOr<std::byte*> HostMemory::Map(
    GpaRange range, std::optional<uint64_t> file_offset) {
  int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  int fd = -1;
  uint64_t offset = 0;
  if (IsMemfd()) {
    // Huge pages are reserved, so that a pool with too few fails here.
    kind =
        MAP_SHARED | (source() == MemorySource::kHugetlb ? 0 : MAP_NORESERVE);
    fd = file_fd_;
    offset = range.gpa.value();
  } else if (source() == MemorySource::kPrivateFile && file_offset) {
    kind = MAP_PRIVATE | MAP_NORESERVE;
    fd = file_fd_;
    offset = *file_offset;
  }

  const absl::StatusOr<std::byte*> reserved = ReserveAddresses(range);
  if (!reserved.ok()) return reserved;
  std::byte* const hva = *reserved;
  absl::Status status;
  if (IsMemfd()) status = MakeRoom(range);
  if (status.ok() &&
      mmap(hva, range.bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd,
           static_cast<off_t>(offset)) == MAP_FAILED) {
    status = RegionRefused(range, "mmap");
  }
  if (const std::optional<int> advice = HugePageAdvice(huge_pages_);
      status.ok() && advice && Advise(hva, range.bytes, *advice) != 0) {
    status = RegionRefused(range, "madvise for transparent huge pages");
  }
  if (!status.ok()) {
    munmap(hva, range.bytes);
    return status;
  }
  return hva;
}

absl::StatusOr<std::byte*> HostMemory::MapForeign(GpaRange range, int fd,
                                                  uint64_t offset) const {
  const absl::StatusOr<std::byte*> hva = ReserveAddresses(range);
  if (!hva.ok()) return hva;
  absl::Status status;
  // Reserving huge pages is up to the creator.
  if (mmap(*hva, range.bytes, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd,
           static_cast<off_t>(offset)) == MAP_FAILED) {
    status = RegionRefused(range, "mmap");
  } else if (Advise(*hva, range.bytes, MADV_DONTDUMP) != 0) {
    // A core dump of this process must not have other guests' secrets.
    status = RegionRefused(range, "madvise(MADV_DONTDUMP)");
  } else if (!AddForeignMapping(*hva, range.bytes)) {
    status = TooManyRegions(range);
  }
  if (!status.ok()) {
    munmap(*hva, range.bytes);
    return status;
  }
  return hva;
}

absl::Status HostMemory::Unmap(std::byte* hva, GpaRange range) const {
  if (!foreign()) return UnmapRegion(hva, range);
  absl::Status status = TooManyRegions(range);
  RemoveForeignMapping(hva, range.bytes, [&] {
    status = UnmapRegion(hva, range);
    return status.ok();
  });
  return status;
}

absl::Status HostMemory::Release(GpaRange range) const {
  if (!IsMemfd() || foreign_) return absl::OkStatus();
  if (source() == MemorySource::kHugetlb) {
    // Punching a hole frees pages but keeps reservations of pages never used,
    // so all are allocated first. A page that cannot be allocated was not
    // reserved.
    for (uint64_t at = 0; at < range.bytes; at += kHugePageBytes) {
      Fallocate(0, range.gpa + at, kHugePageBytes);
    }
  }
  return PunchHole(range);
}

int HostMemory::Fallocate(int mode, Gpa from, uint64_t bytes) const {
  return Uninterrupted([&] {
    return fallocate(file_fd_, mode, static_cast<off_t>(from.value()),
                     static_cast<off_t>(bytes));
  });
}

absl::Status HostMemory::PunchHole(GpaRange range) const {
  const int result = Fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               range.gpa, range.bytes);
  if (result == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(RegionText(range),
                   ": fallocate(FALLOC_FL_PUNCH_HOLE) failed: ", LastError()));
}

absl::StatusOr<uint64_t> HostMemory::ResidentBytes(const std::byte* hva,
                                                   uint64_t bytes) const {
  const uint64_t page = HostPageSize();
  if (source() != MemorySource::kSharedMemfd) {
    const bool huge = source() == MemorySource::kHugetlb;
    // A private mapping has copies beside pages of the file; shared pages may
    // be mapped by other processes too.
    const absl::StatusOr<uint64_t> pages =
        huge ? CountPagemap(hva, bytes / page, kPagemapPresent, 0)
             : CountPagemap(hva, bytes / page,
                            kPagemapPresent | kPagemapExclusive,
                            kPagemapFileOrShared);
    if (!pages.ok()) return pages;
    return *pages * page;
  }
  std::array<unsigned char, 4096> in_core;
  uint64_t resident = 0;
  for (uint64_t at = 0; at < bytes;) {
    const uint64_t size = std::min(bytes - at, in_core.size() * page);
    // mincore takes no const pointer, but does not write there.
    void* const start = const_cast<std::byte*>(hva) + at;
    if (mincore(start, size, in_core.data()) != 0) {
      if (errno == EAGAIN) continue;
      return absl::UnavailableError(absl::StrCat("mincore: ", LastError()));
    }
    for (uint64_t i = 0; i < size / page; ++i) resident += in_core[i] & 1;
    at += size;
  }
  return resident * page;
}

absl::StatusOr<uint64_t> HostMemory::CountPagemap(const std::byte* hva,
                                                  uint64_t pages, uint64_t set,
                                                  uint64_t clear) const {
  std::array<uint64_t, 4096> entries;
  uint64_t next = reinterpret_cast<uintptr_t>(hva) / HostPageSize();
  uint64_t found = 0;
  while (pages > 0) {
    const uint64_t wanted = std::min<uint64_t>(pages, entries.size());
    const ssize_t got = Uninterrupted([&] {
      return pread(pagemap_fd_, entries.data(), wanted * sizeof(uint64_t),
                   static_cast<off_t>(next * sizeof(uint64_t)));
    });
    if (got <= 0 || got % static_cast<ssize_t>(sizeof(uint64_t)) != 0) {
      return absl::UnavailableError(absl::StrCat(
          "/proc/self/pagemap: ", got < 0 ? LastError() : "short read"));
    }
    const uint64_t count = static_cast<uint64_t>(got) / sizeof(uint64_t);
    for (uint64_t i = 0; i < count; ++i) {
      found += (entries[i] & (set | clear)) == set ? 1 : 0;
    }
    next += count;
    pages -= count;
  }
  return found;
}

}  // namespace guestmm
