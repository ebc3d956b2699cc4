#include "guestmm/buddy/page_map.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// Zeroed memory that is there once it is written; null if there is no room.
void* Reserve(size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : at;
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

absl::StatusOr<std::unique_ptr<PageMap>> PageMap::Create(Pfn end,
                                                         size_t list_heads) {
  // All ones is left free so that no index needs 33 bits on the way.
  constexpr uint64_t kMaxIndex = 0xffff'fffe;
  if (end.value() == 0 || end.value() > kMaxIndex - list_heads) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "memory ends at pfn %d; 32-bit page links allow 1 to %d", end.value(),
        kMaxIndex - list_heads));
  }
  const size_t state_bytes = end.value();
  const size_t link_bytes = (end.value() + list_heads) * sizeof(Link);
  void* const states = Reserve(state_bytes);
  void* const links = Reserve(link_bytes);
  if (states == nullptr || links == nullptr) {
    const int error = errno;
    if (states != nullptr) munmap(states, state_bytes);
    if (links != nullptr) munmap(links, link_bytes);
    return absl::ResourceExhaustedError(
        absl::StrFormat("no address space for the metadata of %d pages: %s",
                        end.value(), std::strerror(error)));
  }
  return std::unique_ptr<PageMap>(
      new PageMap(end, static_cast<uint8_t*>(states), static_cast<Link*>(links),
                  list_heads));
}

PageMap::~PageMap() {
  munmap(states_, end_.value());
  munmap(links_, (end_.value() + list_heads_) * sizeof(Link));
}

PageMap::Index PageMap::MakeList() {
  GUESTMM_CHECK(lists_made_ < list_heads_) << "more lists than planned";
  const auto list = static_cast<Index>(end_.value() + lists_made_++);
  links_[list] = {.next = list, .prev = list};
  return list;
}

}  // namespace guestmm
