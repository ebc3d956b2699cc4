#include "guestmm/ram/guest_ram.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/ram/host_memory.h"

namespace guestmm {
namespace {

// Enough that few threads share a lock; only large guests have more threads.
constexpr size_t kShards = 16;
constexpr size_t kShardAlignment = 64;

// REQUIRES: a valid range; its end does not wrap.
Gpa EndOf(GpaRange range) { return range.gpa + range.bytes; }

absl::Status CheckRegion(GpaRange range, MemorySource source) {
  const uint64_t granule = std::max(kPageSize, DiscardGranule(source));
  if (range.bytes == 0 || range.bytes % granule != 0 ||
      !range.gpa.IsAligned(granule)) {
    return absl::InvalidArgumentError(absl::StrCat(
        RegionText(range), ": start and size must be multiples of ",
        FormatBytes(granule), ", and the size not zero"));
  }
  if (range.gpa.value() + range.bytes < range.gpa.value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        RegionText(range), ": runs past the end of the address space"));
  }
  return absl::OkStatus();
}

absl::Status CheckRegions(const std::vector<GpaRange>& regions,
                          MemorySource source) {
  if (regions.empty()) {
    return absl::InvalidArgumentError("guest RAM has no region");
  }
  Gpa free_from(0);
  for (const GpaRange& range : regions) {
    if (absl::Status status = CheckRegion(range, source); !status.ok()) {
      return status;
    }
    if (range.gpa < free_from) {
      return absl::InvalidArgumentError(
          absl::StrCat(RegionText(range),
                       ": regions must be in ascending order and not overlap"));
    }
    free_from = EndOf(range);
  }
  return absl::OkStatus();
}

}  // namespace

// All translations of a thread use one shard, so that threads do not contend
// for one lock. A removal takes the locks of all shards: then it sees every
// translation, and none can begin.
struct alignas(kShardAlignment) GuestRam::Shard {
  SpinLock lock;
  // The same in every shard, except during a change.
  std::shared_ptr<const Map> map ABSL_GUARDED_BY(lock);
  // The range pinned by each translation. An empty one is unused and listed in
  // unused_pins.
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
  if (absl::Status status = CheckRegions(options.regions, options.source);
      !status.ok()) {
    return status;
  }
  absl::StatusOr<std::unique_ptr<HostMemory>> memory =
      HostMemory::Create(options);
  if (!memory.ok()) return memory.status();
  std::unique_ptr<GuestRam> ram(new GuestRam(*std::move(memory)));
  uint64_t file_offset = 0;
  for (const GpaRange& range : options.regions) {
    LockHolder hold(ram->changes_);
    absl::Status status = ram->InsertRegion(range, [&](Map& map) {
      return MapInto(map, range,
                     [&] { return ram->memory_->Map(range, file_offset); });
    });
    if (!status.ok()) return status;
    file_offset += range.bytes;
  }
  return ram;
}

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::CreateForeign(
    const ForeignRamOptions& options) {
  absl::StatusOr<std::unique_ptr<HostMemory>> memory =
      HostMemory::CreateForeign(options);
  if (!memory.ok()) return memory.status();
  return std::unique_ptr<GuestRam>(new GuestRam(*std::move(memory)));
}

GuestRam::GuestRam(std::unique_ptr<HostMemory> memory)
    : memory_(std::move(memory)), first_shard_(new Shard[kShards]) {
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
  UnmapAll(*map_);
}

MemorySource GuestRam::source() const { return memory_->source(); }

bool GuestRam::foreign() const { return memory_->foreign(); }

HugePages GuestRam::huge_pages() const { return memory_->huge_pages(); }

uint64_t GuestRam::discard_granule() const { return DiscardGranule(source()); }

int GuestRam::memfd() const { return memory_->memfd(); }

absl::Status GuestRam::AddRegion(GpaRange range) {
  GUESTMM_CHECK(!foreign()) << "a region of its own for foreign guest RAM";
  if (absl::Status status = CheckRegion(range, source()); !status.ok()) {
    return status;
  }
  LockHolder hold(changes_);
  return InsertRegion(range, [&](Map& map) {
    return MapInto(map, range,
                   [&] { return memory_->Map(range, std::nullopt); });
  });
}

absl::Status GuestRam::AdoptRegion(GpaRange range, int fd, uint64_t offset) {
  GUESTMM_CHECK(foreign()) << "a foreign region for guest RAM of its own";
  LockHolder hold(changes_);
  return InsertRegion(range, [&](Map& map) {
    MemorySource source = memory_->source();
    absl::Status status =
        AdoptInto(map, source, {.range = range, .fd = fd, .offset = offset});
    if (status.ok()) memory_->SetForeignSource(source);
    return status;
  });
}

absl::Status GuestRam::ReplaceRegions(std::span<const ForeignRegion> regions) {
  GUESTMM_CHECK(foreign()) << "foreign regions for guest RAM of its own";
  LockHolder hold(changes_);
  const auto map = std::make_shared<Map>();
  MemorySource new_source = source();
  absl::Status status;
  for (const ForeignRegion& region : regions) {
    status = AdoptInto(*map, new_source, region);
    if (!status.ok()) break;
  }
  const std::shared_ptr<const Map> before = map_;
  std::vector<GpaRange> old_ranges;
  for (const Region& region : *before) old_ranges.push_back(region.range);
  if (status.ok()) {
    const uint64_t pins = PublishUnlessPinned(map, old_ranges);
    if (pins > 0) {
      status = absl::FailedPreconditionError(absl::StrCat(
          "replacing all regions: translations that point into them: ", pins));
    }
  }
  if (!status.ok()) {
    UnmapAll(*map);
    return status;
  }
  memory_->SetForeignSource(new_source);
  UnmapAll(*before);
  if (observer_ != nullptr) {
    for (const GpaRange& range : old_ranges) observer_->OnRegionRemoved(range);
    for (const Region& region : *map) observer_->OnRegionAdded(region.range);
  }
  return absl::OkStatus();
}

absl::Status GuestRam::InsertRegion(
    GpaRange range, absl::FunctionRef<absl::Status(Map&)> insert) {
  auto map = std::make_shared<Map>(*map_);
  if (absl::Status status = insert(*map); !status.ok()) return status;
  Publish(map);
  if (observer_ != nullptr) observer_->OnRegionAdded(range);
  return absl::OkStatus();
}

absl::Status GuestRam::MapInto(
    Map& map, GpaRange range,
    absl::FunctionRef<absl::StatusOr<std::byte*>()> map_memory) {
  const auto next = std::partition_point(
      map.begin(), map.end(),
      [&](const Region& region) { return EndOf(region.range) <= range.gpa; });
  if (next != map.end() && next->range.gpa < EndOf(range)) {
    return absl::AlreadyExistsError(absl::StrCat(
        RegionText(range), ": overlaps ", RegionText(next->range)));
  }
  const absl::StatusOr<std::byte*> hva = map_memory();
  if (!hva.ok()) return hva.status();
  map.insert(next, {.range = range, .hva = *hva});
  return absl::OkStatus();
}

absl::Status GuestRam::AdoptInto(Map& map, MemorySource& source,
                                 const ForeignRegion& region) const {
  const GpaRange range = region.range;
  const absl::StatusOr<ForeignFile> file = memory_->InspectForeign(region.fd);
  if (!file.ok()) return file.status();
  if (absl::Status status = CheckRegion(range, file->source); !status.ok()) {
    return status;
  }
  const uint64_t granule = std::max(kPageSize, DiscardGranule(file->source));
  if (region.offset % granule != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: offset 0x%x must be a multiple of %s", RegionText(range),
        region.offset, FormatBytes(granule)));
  }
  if (region.offset > file->bytes ||
      range.bytes > file->bytes - region.offset) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: at offset 0x%x of a memfd of %s, does not lie within it",
        RegionText(range), region.offset, FormatBytes(file->bytes)));
  }
  if (!map.empty() && file->source != source) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: is of source %s, other regions are of source %s",
                        RegionText(range), Name(file->source), Name(source)));
  }
  absl::Status status = MapInto(map, range, [&] {
    return memory_->MapForeign(range, region.fd, region.offset);
  });
  if (status.ok()) source = file->source;
  return status;
}

void GuestRam::UnmapAll(const Map& map) const {
  for (const Region& region : map) {
    [[maybe_unused]] const absl::Status unmapped =
        memory_->Unmap(region.hva, region.range);
  }
}

absl::Status GuestRam::RemoveRegion(GpaRange range) {
  if (absl::Status status = CheckRegion(range, source()); !status.ok()) {
    return status;
  }
  LockHolder hold(changes_);
  const std::shared_ptr<const Map> before = map_;
  const Region* const region = Find(*before, range);
  if (region == nullptr) {
    return absl::NotFoundError(absl::StrCat(
        RegionText(range), ": not within one region of guest RAM"));
  }
  const uint64_t offset = range.gpa - region->range.gpa;
  std::byte* const hva = region->hva + offset;

  // The parts before and after it remain.
  auto map = std::make_shared<Map>(*before);
  auto at = map->erase(map->begin() + (region - before->data()));
  if (const uint64_t rest = EndOf(region->range) - EndOf(range); rest > 0) {
    at = map->insert(at,
                     {.range = {EndOf(range), rest}, .hva = hva + range.bytes});
  }
  if (offset > 0) {
    map->insert(at, {.range = {region->range.gpa, offset}, .hva = region->hva});
  }

  if (const uint64_t pins = PublishUnlessPinned(std::move(map), {&range, 1});
      pins > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        RegionText(range), ": translations that point into it: ", pins));
  }
  // Without the shards' locks, since this may be slow.
  if (absl::Status status = memory_->Unmap(hva, range); !status.ok()) {
    Publish(before);
    return status;
  }
  absl::Status released = memory_->Release(range);
  if (observer_ != nullptr) observer_->OnRegionRemoved(range);
  return released;
}

void GuestRam::SetObserver(RegionObserver* observer) {
  LockHolder hold(changes_);
  observer_ = observer;
}

void GuestRam::Publish(const std::shared_ptr<const Map>& map) {
  // Keeps the old map alive, so that it is not freed under a shard's spin lock.
  const std::shared_ptr<const Map> before = std::exchange(map_, map);
  for (Shard& shard : shards()) {
    LockHolder hold(shard.lock);
    shard.map = map;
  }
}

// The analysis cannot follow locks taken in a loop. They are taken in ascending
// order, and no other code takes more than one.
uint64_t GuestRam::PublishUnlessPinned(std::shared_ptr<const Map> map,
                                       std::span<const GpaRange> ranges)
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (Shard& shard : shards()) shard.lock.Lock();
  uint64_t pins = 0;
  for (const Shard& shard : shards()) {
    for (const GpaRange& range : ranges) pins += shard.PinsInto(range);
  }
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
  // Compares by subtraction, since gpa + bytes may overflow.
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
        RegionText(range), ": must be whole host pages within one region"));
  }
  return memory_->ResidentBytes(region->hva + (range.gpa - region->range.gpa),
                                range.bytes);
}

absl::StatusOr<uint64_t> GuestRam::ResidentBytes() const {
  LockHolder hold(changes_);
  uint64_t total = 0;
  for (const Region& region : *map_) {
    const absl::StatusOr<uint64_t> resident =
        memory_->ResidentBytes(region.hva, region.range.bytes);
    if (!resident.ok()) return resident;
    total += *resident;
  }
  return total;
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
