#include "guestmm/buddy/page_map.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <span>
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

void Unreserve(void* at, size_t bytes) {
  if (at != nullptr) munmap(at, bytes + HostPage());
}

uintptr_t AddressOf(const void* at) { return reinterpret_cast<uintptr_t>(at); }

// The whole pages of the host's in `bytes`, to the host.
void GiveBack(std::span<std::byte> bytes) {
  const uintptr_t host_page = HostPage();
  const size_t lead =
      (host_page - AddressOf(bytes.data()) % host_page) % host_page;
  if (bytes.size() < lead + host_page) return;
  const size_t whole = (bytes.size() - lead) / host_page * host_page;
  GUESTMM_CHECK(madvise(bytes.data() + lead, whole, MADV_DONTNEED) == 0)
      << std::strerror(errno);
}

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
        "memory or hotplug_end ends at pfn 0x%x; %d-bit page links allow 0x1 "
        "to 0x%x",
        options.end.value(), kLinkBits, most));
  }
  rounded.end = options.end.AlignUp(kMaxOrder);
  // Frees what there is of itself when not all can be had.
  std::unique_ptr<PageMap> map(new PageMap(rounded));
  if (map->states_ == nullptr || map->entries_ == nullptr ||
      map->pageblocks_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no address space for the metadata of %d pages: %s",
                        options.end.value(), std::strerror(errno)));
  }
  return map;
}

PageMap::PageMap(const Options& options)
    : options_(options),
      states_(static_cast<uint8_t*>(Reserve(state_bytes()))),
      entries_(static_cast<Entry*>(Reserve(entry_bytes()))),
      pageblocks_(static_cast<uint16_t*>(Reserve(pageblock_bytes()))) {}

PageMap::~PageMap() {
  Unreserve(states_, state_bytes());
  Unreserve(entries_, entry_bytes());
  Unreserve(pageblocks_, pageblock_bytes());
}

size_t PageMap::state_bytes() const { return end().value() * sizeof(*states_); }

size_t PageMap::entry_bytes() const {
  return (end().value() + options_.list_heads) * sizeof(*entries_);
}

size_t PageMap::pageblock_bytes() const {
  return (end().value() >> options_.pageblock_order.value()) *
         sizeof(*pageblocks_);
}

PageInfo PageMap::Get(Pfn pfn) const {
  const uint8_t state = StateOf(pfn);
  if (state == kOffline) return {};
  if (state == kTail) return {.state = PageState::kTail, .order = Order(0)};
  const Order order(state & ((1 << kOrderBits) - 1));
  if ((state & ~kReported) == State(kFree, order)) {
    return {.state = PageState::kFree, .order = order};
  }
  switch (Use(pfn) & kTagMask) {
    case kAllocated:
      return {.state = PageState::kAllocated, .order = order};
    case kIsolated:
      return {.state = PageState::kIsolated, .order = order};
    default:
      return {.state = PageState::kCached, .order = order};
  }
}

bool PageMap::Pin(Pfn pfn) {
  auto use = UseRef(pfn);
  uint32_t was = use.load(std::memory_order_relaxed);
  do {
    if (!IsAllocation(was) || (was & kFreed) != 0) return false;
    GUESTMM_CHECK((was & kPinsMask) != kPinsMask)
        << pfn << " has " << PinsIn(was) << " pins already";
  } while (!use.compare_exchange_weak(was, was + kOnePin,
                                      std::memory_order_acq_rel));
  return true;
}

PageMap::Unpinned PageMap::Unpin(Pfn pfn) {
  auto use = UseRef(pfn);
  uint32_t was = use.load(std::memory_order_relaxed);
  uint32_t now = 0;
  do {
    if (PinsIn(was) == 0) return Unpinned::kNotPinned;
    now = was - kOnePin;
    // Its last pin: from now on the caller's to free.
    if (PinsIn(now) == 0) now &= ~kFreed;
  } while (!use.compare_exchange_weak(was, now, std::memory_order_acq_rel));
  return (was & kFreed) != 0 && (now & kFreed) == 0
             ? Unpinned::kLastPinOfFreedBlock
             : Unpinned::kStillInUse;
}

bool PageMap::FreePinned(Pfn pfn, Order order) {
  auto use = UseRef(pfn);
  uint32_t was = use.load(std::memory_order_relaxed);
  do {
    // Of everything but type and pins, that it is allocated, and no more.
    if ((was & ~(kTypeMask | kPinsMask)) != Allocated(order) ||
        PinsIn(was) == 0) {
      return false;
    }
  } while (
      !use.compare_exchange_weak(was, was | kFreed, std::memory_order_acq_rel));
  return true;
}

PageMap::Index PageMap::MakeLists(size_t count) {
  GUESTMM_CHECK(lists_made_ + count <= options_.list_heads)
      << "more lists than planned";
  const auto first = static_cast<Index>(end().value() + lists_made_);
  lists_made_ += count;
  for (size_t i = 0; i < count; ++i) {
    const Index list = first + static_cast<Index>(i);
    lists().Link(list, list);
  }
  return first;
}

void PageMap::Lists::RotateToFront(Index list, Pfn first) const {
  const auto at = static_cast<Index>(first.value());
  if (Next(list) == at) return;
  // Takes the head out of the ring and puts it back before `first`.
  Link(Prev(list), Next(list));
  Link(Prev(at), list);
  Link(list, at);
}

void PageMap::Release(PfnRange range) {
  const auto start = static_cast<size_t>(range.start.value());
  const auto pages = static_cast<size_t>(range.pages().value());
  GiveBack(std::as_writable_bytes(std::span(states_ + start, pages)));
  GiveBack(std::as_writable_bytes(std::span(entries_ + start, pages)));
}

absl::StatusOr<uint64_t> PageMap::ResidentBytes() const {
  uint64_t sum = 0;
  for (const std::span<const std::byte> bytes :
       {std::as_bytes(std::span(states_, state_bytes())),
        std::span(reinterpret_cast<const std::byte*>(entries_), entry_bytes()),
        std::span(reinterpret_cast<const std::byte*>(pageblocks_),
                  pageblock_bytes())}) {
    const absl::StatusOr<uint64_t> resident =
        ResidentBytesAt(bytes.data(), bytes.size());
    if (!resident.ok()) return resident;
    sum += *resident;
  }
  return sum;
}

}  // namespace guestmm
