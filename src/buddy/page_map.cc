#include "guestmm/buddy/page_map.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

size_t HostPage() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Zeroed memory that is there once it is written, a page of the host at a time;
// null if there is no room. Behind it is a page that no one may touch: the
// kernel would else make one mapping of it and its neighbour, and the numbers
// of /proc/self/smaps would be those of both.
void* Reserve(size_t bytes) {
  void* const at = mmap(nullptr, bytes + HostPage(), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  if (mprotect(at, bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(at, bytes + HostPage());
    return nullptr;
  }
  // A huge page would back the metadata of 1 GiB where 4 KiB was written.
  madvise(at, bytes, MADV_NOHUGEPAGE);
  return at;
}

void Unreserve(void* at, size_t bytes) { munmap(at, bytes + HostPage()); }

uintptr_t AddressOf(const void* at) { return reinterpret_cast<uintptr_t>(at); }

// Of the mappings that cover [at, at + bytes): resident, in bytes, as
// /proc/self/smaps has them.
absl::StatusOr<uint64_t> ResidentBytesAt(const void* at, size_t bytes) {
  std::ifstream smaps("/proc/self/smaps");
  uint64_t resident = 0;
  bool inside = false;
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    uintptr_t start = 0;
    uintptr_t end = 0;
    char dash = 0;
    if (words >> std::hex >> start >> dash >> end && dash == '-') {
      inside = start < AddressOf(at) + bytes && end > AddressOf(at);
      found |= inside;
    } else if (inside && line.starts_with("Rss:")) {
      uint64_t kib = 0;
      std::istringstream(line.substr(4)) >> kib;
      resident += kib * kKiB;
    }
  }
  if (!found) {
    return absl::UnavailableError(
        "/proc/self/smaps does not have the metadata");
  }
  return resident;
}

}  // namespace

std::string_view Name(PageState state) {
  switch (state) {
    case PageState::kOffline:
      return "offline";
    case PageState::kTail:
      return "tail";
    case PageState::kFree:
      return "free";
    case PageState::kAllocated:
      return "allocated";
    case PageState::kCached:
      return "cached";
    case PageState::kIsolated:
      return "isolated";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& os, PageState state) {
  return os << Name(state);
}

std::ostream& operator<<(std::ostream& os, PageInfo info) {
  return os << info.state << ", " << info.order;
}

absl::StatusOr<std::unique_ptr<PageMap>> PageMap::Create(
    const Options& options) {
  // Room for whole blocks, so that the buddy of any page has an entry.
  Options rounded = options;
  constexpr uint64_t kEntries = uint64_t{1} << kLinkBits;
  const uint64_t most =
      (kEntries - options.list_heads) & ~(kMaxOrder.pages().value() - 1);
  if (options.end == Pfn(0) || options.end > Pfn(most)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "memory ends at pfn %d; %d-bit page links allow 1 to %d",
        options.end.value(), kLinkBits, most));
  }
  rounded.end = options.end.AlignUp(kMaxOrder);
  PageMap sizes(rounded, nullptr, nullptr);
  void* const entries = Reserve(sizes.entry_bytes());
  void* const pageblocks = Reserve(sizes.pageblock_bytes());
  if (entries == nullptr || pageblocks == nullptr) {
    const int error = errno;
    if (entries != nullptr) Unreserve(entries, sizes.entry_bytes());
    if (pageblocks != nullptr) Unreserve(pageblocks, sizes.pageblock_bytes());
    return absl::ResourceExhaustedError(
        absl::StrFormat("no address space for the metadata of %d pages: %s",
                        options.end.value(), std::strerror(error)));
  }
  return std::unique_ptr<PageMap>(
      new PageMap(rounded, static_cast<uint64_t*>(entries),
                  static_cast<uint16_t*>(pageblocks)));
}

PageMap::~PageMap() {
  if (entries_ == nullptr) return;
  Unreserve(entries_, entry_bytes());
  Unreserve(pageblocks_, pageblock_bytes());
}

size_t PageMap::entry_bytes() const {
  return (end().value() + options_.list_heads) * sizeof(*entries_);
}

size_t PageMap::pageblock_bytes() const {
  return (end().value() >> options_.pageblock_order.value()) *
         sizeof(*pageblocks_);
}

PageInfo PageMap::Decode(uint64_t entry) {
  const uint64_t payload = entry & kPayloadMask;
  const Order order(
      static_cast<int>(entry >> kOrderShift & ((1 << kOrderBits) - 1)));
  switch (entry >> kOrderShift & ~uint64_t{(1 << kOrderBits) - 1}) {
    case kFreeTag:
      return {.state = PageState::kFree, .order = order};
    case kAllocatedTag:
      return {.state = PageState::kAllocated, .order = order};
    case kHeldTag:
      return {.state = payload == kCached ? PageState::kCached
                                          : PageState::kIsolated,
              .order = order};
    default:
      return {
          .state = payload == kTail ? PageState::kTail : PageState::kOffline,
          .order = Order(0)};
  }
}

bool PageMap::Pin(Pfn pfn) {
  auto entry = Ref(static_cast<Index>(pfn.value()));
  uint64_t was = entry.load(std::memory_order_relaxed);
  do {
    if (Decode(was).state != PageState::kAllocated || (was & kFreed) != 0) {
      return false;
    }
  } while (!entry.compare_exchange_weak(was, was + kOnePin,
                                        std::memory_order_acq_rel));
  return true;
}

PageMap::Unpinned PageMap::Unpin(Pfn pfn) {
  auto entry = Ref(static_cast<Index>(pfn.value()));
  uint64_t was = entry.load(std::memory_order_relaxed);
  uint64_t now = 0;
  do {
    if (PinsIn(was) == 0) return Unpinned::kNotPinned;
    now = was - kOnePin;
    // Its last pin: from now on the caller's to free.
    if (PinsIn(now) == 0) now &= ~kFreed;
  } while (!entry.compare_exchange_weak(was, now, std::memory_order_acq_rel));
  return (was & kFreed) != 0 && (now & kFreed) == 0
             ? Unpinned::kLastPinOfFreedBlock
             : Unpinned::kStillInUse;
}

bool PageMap::FreePinned(Pfn pfn, Order order) {
  auto entry = Ref(static_cast<Index>(pfn.value()));
  uint64_t was = entry.load(std::memory_order_relaxed);
  do {
    if (Decode(was) != PageInfo{PageState::kAllocated, order} ||
        (was & kFreed) != 0 || PinsIn(was) == 0) {
      return false;
    }
  } while (!entry.compare_exchange_weak(was, was | kFreed,
                                        std::memory_order_acq_rel));
  return true;
}

uint64_t PageMap::PinsIn(uint64_t entry) {
  return Decode(entry).state == PageState::kAllocated
             ? (entry & kPayloadMask) / kOnePin
             : 0;
}

PageMap::Index PageMap::MakeLists(size_t count) {
  GUESTMM_CHECK(lists_made_ + count <= options_.list_heads)
      << "more lists than planned";
  const auto first = static_cast<Index>(end().value() + lists_made_);
  lists_made_ += count;
  for (size_t i = 0; i < count; ++i) {
    const Index list = first + static_cast<Index>(i);
    StoreAt(list, uint64_t{list} << kLinkBits | list);
  }
  return first;
}

void PageMap::Lists::RotateToFront(Index list, Pfn first) const {
  const auto at = static_cast<Index>(first.value());
  if (Next(list) == at) return;
  // Takes the head out of the ring and puts it back before `first`.
  SetNext(Prev(list), Next(list));
  SetPrev(Next(list), Prev(list));
  const Index last = Prev(at);
  SetNext(last, list);
  SetPrev(list, last);
  SetNext(list, at);
  SetPrev(at, list);
}

void PageMap::Release(PfnRange range) {
  // Whole pages of the host's only.
  const auto host_page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* const start =
      reinterpret_cast<std::byte*>(entries_ + range.start.value());
  const size_t bytes = range.pages().value() * sizeof(*entries_);
  const size_t lead = (host_page - AddressOf(start) % host_page) % host_page;
  if (bytes < lead + host_page) return;
  const size_t whole = (bytes - lead) / host_page * host_page;
  GUESTMM_CHECK(madvise(start + lead, whole, MADV_DONTNEED) == 0)
      << std::strerror(errno);
}

absl::StatusOr<uint64_t> PageMap::ResidentBytes() const {
  const absl::StatusOr<uint64_t> entries =
      ResidentBytesAt(entries_, entry_bytes());
  if (!entries.ok()) return entries;
  const absl::StatusOr<uint64_t> pageblocks =
      ResidentBytesAt(pageblocks_, pageblock_bytes());
  if (!pageblocks.ok()) return pageblocks;
  return *entries + *pageblocks;
}

}  // namespace guestmm
