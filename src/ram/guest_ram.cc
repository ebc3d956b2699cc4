#include "guestmm/ram/guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// The alignment that guest and host addresses share: one huge page.
constexpr uint64_t kHvaAlignment = 2 * kMiB;

// A lock that is shared with few or no other threads is cheap to take; there
// are more threads than this only on large guests.
constexpr size_t kShards = 16;
constexpr size_t kShardAlignment = 64;

// Bits of a /proc/PID/pagemap entry (Linux, admin-guide/mm/pagemap).
constexpr uint64_t kPagemapExclusive = uint64_t{1} << 56;
constexpr uint64_t kPagemapPresent = uint64_t{1} << 63;

std::string Describe(GpaRange range) {
  return absl::StrFormat("region 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

std::string ErrnoText(int error) { return std::strerror(error); }

// REQUIRES: a valid range, whose end does not wrap.
Gpa EndOf(GpaRange range) { return range.gpa + range.bytes; }

absl::Status CheckRegion(GpaRange range) {
  const uint64_t granule = std::max(kPageSize, HostPageSize());
  if (range.bytes == 0 || range.bytes % granule != 0 ||
      !range.gpa.IsAligned(granule)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(range), ": start and size must be multiples of ",
                     FormatBytes(granule), ", and the size not zero"));
  }
  if (range.gpa.value() + range.bytes < range.gpa.value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        Describe(range), ": runs past the end of the address space"));
  }
  return absl::OkStatus();
}

absl::Status CheckRegions(const std::vector<GpaRange>& regions) {
  if (regions.empty()) {
    return absl::InvalidArgumentError("guest RAM has no region");
  }
  Gpa free_from(0);
  for (const GpaRange& range : regions) {
    if (absl::Status status = CheckRegion(range); !status.ok()) return status;
    if (range.gpa < free_from) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(range),
                       ": regions must be in ascending order and not overlap"));
    }
    free_from = EndOf(range);
  }
  return absl::OkStatus();
}

// Maps memory for `range`, of which hva and gpa agree modulo a huge page.
absl::StatusOr<std::byte*> MapMemory(GpaRange range, HugePages huge_pages) {
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

  if (huge_pages != HugePages::kHostDefault) {
    const int advice =
        huge_pages == HugePages::kAdvise ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (madvise(hva, range.bytes, advice) != 0) {
      const absl::Status status = failed("madvise for transparent huge pages");
      munmap(hva, range.bytes);
      return status;
    }
  }
  return hva;
}

}  // namespace

uint64_t HostPageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Translations of a thread all go to one shard, so that threads do not meet at
// one lock. A removal takes the locks of all shards: then there is no
// translation that it does not see, and none begins.
struct alignas(kShardAlignment) GuestRam::Shard {
  SpinLock lock;
  // The same in every shard, but for the moment of a change.
  std::shared_ptr<const Map> map ABSL_GUARDED_BY(lock);
  // What each living translation pins. Empty: unused, and listed below.
  std::vector<GpaRange> pins ABSL_GUARDED_BY(lock);
  std::vector<uint32_t> unused_pins ABSL_GUARDED_BY(lock);

  uint32_t Pin(GpaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    if (unused_pins.empty()) {
      pins.push_back(range);
      return static_cast<uint32_t>(pins.size() - 1);
    }
    const uint32_t pin = unused_pins.back();
    unused_pins.pop_back();
    pins[pin] = range;
    return pin;
  }
  void Unpin(uint32_t pin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    pins[pin] = {};
    unused_pins.push_back(pin);
  }
  uint64_t PinsInto(GpaRange range) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
    const auto count =
        std::count_if(pins.begin(), pins.end(), [&](const GpaRange& pin) {
          return pin.bytes > 0 && pin.gpa < EndOf(range) &&
                 range.gpa < EndOf(pin);
        });
    return static_cast<uint64_t>(count);
  }
};

void Translation::Unpin() {
  LockHolder hold(shard_->lock);
  shard_->Unpin(pin_);
}

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(
    const GuestRamOptions& options) {
  if (absl::Status status = CheckRegions(options.regions); !status.ok()) {
    return status;
  }
  const int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap_fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("/proc/self/pagemap: ", ErrnoText(errno)));
  }
  std::unique_ptr<GuestRam> ram(new GuestRam(options.huge_pages, pagemap_fd));
  for (const GpaRange& range : options.regions) {
    if (absl::Status status = ram->AddRegion(range); !status.ok()) {
      return status;
    }
  }
  return ram;
}

GuestRam::GuestRam(HugePages huge_pages, int pagemap_fd)
    : huge_pages_(huge_pages),
      pagemap_fd_(pagemap_fd),
      first_shard_(new Shard[kShards]) {
  LockHolder hold(changes_);
  Publish(std::make_shared<const Map>());
}

GuestRam::~GuestRam() {
  LockHolder hold(changes_);
  for (Shard& shard : shards()) {
    LockHolder hold_shard(shard.lock);
    const size_t alive = shard.pins.size() - shard.unused_pins.size();
    GUESTMM_CHECK(alive == 0)
        << "guest RAM destroyed with " << alive << " translations alive";
  }
  for (const Region& region : *map_) munmap(region.hva, region.range.bytes);
  close(pagemap_fd_);
}

absl::Status GuestRam::AddRegion(GpaRange range) {
  if (absl::Status status = CheckRegion(range); !status.ok()) return status;
  LockHolder hold(changes_);
  const auto next = std::partition_point(
      map_->begin(), map_->end(),
      [&](const Region& region) { return EndOf(region.range) <= range.gpa; });
  if (next != map_->end() && next->range.gpa < EndOf(range)) {
    return absl::AlreadyExistsError(
        absl::StrCat(Describe(range), ": overlaps ", Describe(next->range)));
  }
  const absl::StatusOr<std::byte*> hva = MapMemory(range, huge_pages_);
  if (!hva.ok()) return hva.status();
  auto map = std::make_shared<Map>(*map_);
  map->insert(map->begin() + (next - map_->begin()),
              {.range = range, .hva = *hva});
  Publish(map);
  return absl::OkStatus();
}

absl::Status GuestRam::RemoveRegion(GpaRange range) {
  if (absl::Status status = CheckRegion(range); !status.ok()) return status;
  LockHolder hold(changes_);
  const std::shared_ptr<const Map> before = map_;
  const Region* const region = Find(*before, range);
  if (region == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(Describe(range), ": not within one region of guest RAM"));
  }
  const uint64_t offset = range.gpa - region->range.gpa;
  std::byte* const hva = region->hva + offset;

  // What lies before it and after it stays.
  auto map = std::make_shared<Map>(*before);
  auto at = map->erase(map->begin() + (region - before->data()));
  if (const uint64_t rest = EndOf(region->range) - EndOf(range); rest > 0) {
    at = map->insert(at,
                     {.range = {EndOf(range), rest}, .hva = hva + range.bytes});
  }
  if (offset > 0) {
    map->insert(at, {.range = {region->range.gpa, offset}, .hva = region->hva});
  }

  if (const uint64_t pins = PublishUnlessPinned(std::move(map), range);
      pins > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        Describe(range), ": translations that point into it: ", pins));
  }
  // Without the shards' locks, since this may take long.
  if (munmap(hva, range.bytes) != 0) {
    const int error = errno;
    Publish(before);
    return absl::ResourceExhaustedError(
        absl::StrCat(Describe(range), ": munmap failed: ", ErrnoText(error)));
  }
  return absl::OkStatus();
}

void GuestRam::Publish(const std::shared_ptr<const Map>& map) {
  // The last owner of a map is not a shard, whose lock is a spinlock.
  const std::shared_ptr<const Map> before = std::exchange(map_, map);
  for (Shard& shard : shards()) {
    LockHolder hold(shard.lock);
    shard.map = map;
  }
}

// The analysis cannot follow locks taken in a loop; they are taken in ascending
// order, by no one else more than one.
uint64_t GuestRam::PublishUnlessPinned(std::shared_ptr<const Map> map,
                                       GpaRange range)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (Shard& shard : shards()) shard.lock.Lock();
  uint64_t pins = 0;
  for (const Shard& shard : shards()) pins += shard.PinsInto(range);
  if (pins == 0) {
    for (Shard& shard : shards()) shard.map = map;
  }
  for (Shard& shard : shards()) shard.lock.Unlock();
  if (pins == 0) map_ = std::move(map);
  return pins;
}

const GuestRam::Region* GuestRam::Find(const Map& map, GpaRange range) {
  const auto after = std::upper_bound(
      map.begin(), map.end(), range.gpa,
      [](Gpa gpa, const Region& region) { return gpa < region.range.gpa; });
  if (after == map.begin()) return nullptr;
  const Region& region = *(after - 1);
  const uint64_t offset = range.gpa - region.range.gpa;
  // Subtractions, since gpa + bytes may overflow.
  if (offset >= region.range.bytes || range.bytes == 0 ||
      range.bytes > region.range.bytes - offset) {
    return nullptr;
  }
  return &region;
}

std::span<GuestRam::Shard> GuestRam::shards() const {
  return {first_shard_.get(), kShards};
}

GuestRam::Shard& GuestRam::OwnShard() const {
  static std::atomic<size_t> threads{0};
  thread_local const size_t index =
      threads.fetch_add(1, std::memory_order_relaxed) % kShards;
  return shards()[index];
}

std::optional<Translation> GuestRam::Translate(GpaRange range) const {
  Shard& shard = OwnShard();
  LockHolder hold(shard.lock);
  const Region* const region = Find(*shard.map, range);
  if (region == nullptr) return std::nullopt;
  return Translation(
      shard, shard.Pin(range),
      {region->hva + (range.gpa - region->range.gpa), range.bytes});
}

std::shared_ptr<const GuestRam::Map> GuestRam::CurrentMap() const {
  Shard& shard = OwnShard();
  LockHolder hold(shard.lock);
  return shard.map;
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytes(GpaRange range) const {
  const uint64_t page = HostPageSize();
  LockHolder hold(changes_);
  const Region* const region = Find(*map_, range);
  if (region == nullptr || range.bytes % page != 0 ||
      !range.gpa.IsAligned(page)) {
    return absl::InvalidArgumentError(absl::StrCat(
        Describe(range), ": not whole host pages within one region"));
  }
  return ResidentBytesAt(region->hva + (range.gpa - region->range.gpa),
                         range.bytes);
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytes() const {
  LockHolder hold(changes_);
  uint64_t total = 0;
  for (const Region& region : *map_) {
    const absl::StatusOr<uint64_t> resident =
        ResidentBytesAt(region.hva, region.range.bytes);
    if (!resident.ok()) return resident;
    total += *resident;
  }
  return total;
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytesAt(const std::byte* hva,
                                                   uint64_t bytes) const {
  const uint64_t page = HostPageSize();
  std::array<uint64_t, 4096> entries;
  uint64_t next = reinterpret_cast<uintptr_t>(hva) / page;
  uint64_t left = bytes / page;
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

std::vector<GpaRange> GuestRam::regions() const {
  const std::shared_ptr<const Map> map = CurrentMap();
  std::vector<GpaRange> ranges;
  ranges.reserve(map->size());
  for (const Region& region : *map) ranges.push_back(region.range);
  return ranges;
}

uint64_t GuestRam::bytes() const {
  const std::shared_ptr<const Map> map = CurrentMap();
  uint64_t total = 0;
  for (const Region& region : *map) total += region.range.bytes;
  return total;
}

}  // namespace guestmm
