#include "guestmm/trace/trace_event.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <iterator>

#include "absl/strings/str_format.h"
#include "src/trace/parse.h"

namespace guestmm {
namespace {

struct FlagName {
  std::string_view name;
  uint32_t flags;
};

constexpr uint32_t Bit(int bit) { return uint32_t{1} << bit; }

constexpr uint32_t kGfpHigh = Bit(6);
constexpr uint32_t kGfpAtomicFlag = Bit(7);
constexpr uint32_t kGfpIo = Bit(8);
constexpr uint32_t kGfpFs = Bit(9);
constexpr uint32_t kGfpNowarn = Bit(10);
constexpr uint32_t kGfpComp = Bit(14);
constexpr uint32_t kGfpNomemalloc = Bit(15);
constexpr uint32_t kGfpHardwall = Bit(17);
constexpr uint32_t kGfpAccount = Bit(19);
constexpr uint32_t kGfpDirectReclaim = Bit(21);
constexpr uint32_t kGfpKswapdReclaim = Bit(22);
constexpr uint32_t kGfpReclaim = kGfpDirectReclaim | kGfpKswapdReclaim;
constexpr uint32_t kGfpKernelFlags = kGfpReclaim | kGfpIo | kGfpFs;
constexpr uint32_t kGfpUserFlags = kGfpKernelFlags | kGfpHardwall;
constexpr uint32_t kGfpHighuser = kGfpUserFlags | GfpFlags::kHighmem;
constexpr uint32_t kGfpHighuserMovable = kGfpHighuser | GfpFlags::kMovable;
constexpr uint32_t kGfpTranshugeLight =
    (kGfpHighuserMovable | kGfpComp | kGfpNomemalloc | kGfpNowarn) &
    ~kGfpReclaim;

// Names for several flags, supersets first.
constexpr std::array kSets = {
    FlagName{"GFP_TRANSHUGE", kGfpTranshugeLight | kGfpDirectReclaim},
    FlagName{"GFP_TRANSHUGE_LIGHT", kGfpTranshugeLight},
    FlagName{"GFP_HIGHUSER_MOVABLE", kGfpHighuserMovable},
    FlagName{"GFP_HIGHUSER", kGfpHighuser},
    FlagName{"GFP_USER", kGfpUserFlags},
    FlagName{"GFP_KERNEL_ACCOUNT", kGfpKernelFlags | kGfpAccount},
    FlagName{"GFP_KERNEL", kGfpKernelFlags},
    FlagName{"GFP_NOFS", kGfpReclaim | kGfpIo},
    FlagName{"GFP_ATOMIC", kGfpHigh | kGfpAtomicFlag | kGfpKswapdReclaim},
    FlagName{"GFP_NOIO", kGfpReclaim},
    FlagName{"GFP_NOWAIT", kGfpKswapdReclaim},
};

// In the order in which the kernel prints them.
constexpr std::array kSingle = {
    FlagName{"GFP_DMA", Bit(4)},
    FlagName{"__GFP_HIGHMEM", GfpFlags::kHighmem},
    FlagName{"GFP_DMA32", Bit(5)},
    FlagName{"__GFP_HIGH", kGfpHigh},
    FlagName{"__GFP_ATOMIC", kGfpAtomicFlag},
    FlagName{"__GFP_IO", kGfpIo},
    FlagName{"__GFP_FS", kGfpFs},
    FlagName{"__GFP_NOWARN", kGfpNowarn},
    FlagName{"__GFP_RETRY_MAYFAIL", Bit(11)},
    FlagName{"__GFP_NOFAIL", Bit(12)},
    FlagName{"__GFP_NORETRY", Bit(13)},
    FlagName{"__GFP_COMP", kGfpComp},
    FlagName{"__GFP_ZERO", GfpFlags::kZero},
    FlagName{"__GFP_NOMEMALLOC", kGfpNomemalloc},
    FlagName{"__GFP_MEMALLOC", Bit(16)},
    FlagName{"__GFP_HARDWALL", kGfpHardwall},
    FlagName{"__GFP_THISNODE", Bit(18)},
    FlagName{"__GFP_RECLAIMABLE", GfpFlags::kReclaimable},
    FlagName{"__GFP_MOVABLE", GfpFlags::kMovable},
    FlagName{"__GFP_ACCOUNT", kGfpAccount},
    FlagName{"__GFP_WRITE", Bit(20)},
    FlagName{"__GFP_DIRECT_RECLAIM", kGfpDirectReclaim},
    FlagName{"__GFP_KSWAPD_RECLAIM", kGfpKswapdReclaim},
    FlagName{"__GFP_ZEROTAGS", Bit(25)},
    FlagName{"__GFP_SKIP_ZERO", Bit(23)},
    FlagName{"__GFP_SKIP_KASAN", Bit(24)},
    FlagName{"__GFP_NOLOCKDEP", Bit(26)},
    FlagName{"__GFP_CMA", Bit(27)},
    FlagName{"__GFP_COLD", Bit(28)},
    FlagName{"__GFP_NOTRACK", Bit(29)},
    FlagName{"__GFP_NO_OBJ_EXT", Bit(30)},
    FlagName{"__GFP_UNKNOWN", GfpFlags::kUnknown},
};

// Names in other kernel versions.
constexpr std::array kOtherNames = {
    FlagName{"none", 0},
    FlagName{"__GFP_DMA", Bit(4)},
    FlagName{"__GFP_DMA32", Bit(5)},
    FlagName{"__GFP_RECLAIM", kGfpReclaim},
    FlagName{"__GFP_WAIT", kGfpReclaim},
    FlagName{"__GFP_REPEAT", Bit(11)},
    FlagName{"__GFP_SKIP_KASAN_POISON", Bit(24)},
    FlagName{"__GFP_SKIP_KASAN_UNPOISON", Bit(24)},
    FlagName{"GFP_TEMPORARY", kGfpKernelFlags | GfpFlags::kReclaimable},
};

// By the bit of the kernel's number, as trace-cmd and perf print it of kernels
// 6.10 to 6.12. The bits above these depend on the configuration, and a number
// that has one may be of an older kernel, whose bits were others.
constexpr uint32_t kByNumber[] = {
    Bit(4),
    GfpFlags::kHighmem,
    Bit(5),
    GfpFlags::kMovable,
    GfpFlags::kReclaimable,
    kGfpHigh,
    kGfpIo,
    kGfpFs,
    GfpFlags::kZero,
    kGfpAtomicFlag,
    kGfpDirectReclaim,
    kGfpKswapdReclaim,
    Bit(20),  // __GFP_WRITE
    kGfpNowarn,
    Bit(11),  // __GFP_RETRY_MAYFAIL
    Bit(12),  // __GFP_NOFAIL
    Bit(13),  // __GFP_NORETRY
    Bit(16),  // __GFP_MEMALLOC
    kGfpComp,
    kGfpNomemalloc,
    kGfpHardwall,
    Bit(18),  // __GFP_THISNODE
    kGfpAccount,
    Bit(25),  // __GFP_ZEROTAGS
};

uint32_t FlagsOfNumber(uint64_t number) {
  if (number >> std::size(kByNumber) != 0) return GfpFlags::kUnknown;
  uint32_t flags = 0;
  for (const uint32_t flag : kByNumber) {
    if ((number & 1) != 0) flags |= flag;
    number >>= 1;
  }
  return flags;
}

template <typename Names>
const FlagName* FindName(const Names& names, std::string_view name) {
  const auto* const found =
      std::find_if(names.begin(), names.end(),
                   [&](const FlagName& flag) { return flag.name == name; });
  return found == names.end() ? nullptr : found;
}

uint32_t FlagsOf(std::string_view name) {
  const FlagName* found = FindName(kSets, name);
  if (found == nullptr) found = FindName(kSingle, name);
  if (found == nullptr) found = FindName(kOtherNames, name);
  if (found != nullptr) return found->flags;
  // Before 4.6 single flags were printed without the underscores.
  if (name.starts_with("GFP_")) return FlagsOf("__" + std::string(name));
  uint64_t number = 0;
  if (trace::TakeNumber(name, number) && name.empty()) {
    return FlagsOfNumber(number);
  }
  return GfpFlags::kUnknown;
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const TraceEvent& event) {
  constexpr std::array<std::string_view, 4> kNames = {
      "mm_page_alloc", "mm_page_free", "mm_page_alloc_zone_locked",
      "mm_page_pcpu_drain"};
  const auto time = static_cast<uint64_t>(std::abs(event.time.count()));
  const uint64_t fraction = time % 1'000'000'000;
  const bool in_microseconds = time % 1000 == 0;
  os << absl::StrFormat("guestmm-0 [%03d] %s%d.", event.cpu,
                        event.time.count() < 0 ? "-" : "", time / 1'000'000'000)
     << (in_microseconds ? absl::StrFormat("%06d", fraction / 1000)
                         : absl::StrFormat("%09d", fraction))
     << absl::StrFormat(": %s: pfn=0x%x order=%d",
                        kNames[static_cast<size_t>(event.kind)],
                        event.pfn.value(), event.order.value());
  if (event.kind != TraceEvent::Kind::kFree) {
    os << absl::StrFormat(" migratetype=%d", event.migratetype);
  }
  if (event.kind == TraceEvent::Kind::kAlloc) {
    os << " gfp_flags=" << GfpFlags::Format(event.gfp);
  }
  return os;
}

uint32_t GfpFlags::Parse(std::string_view text) {
  uint32_t flags = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('|'), text.size());
    flags |= FlagsOf(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return flags;
}

std::string GfpFlags::Format(uint32_t flags) {
  if (flags == 0) return "none";
  std::string text;
  const auto take = [&](const FlagName& flag) {
    if ((flags & flag.flags) != flag.flags) return;
    if (!text.empty()) text += '|';
    text += flag.name;
    flags &= ~flag.flags;
  };
  std::for_each(kSets.begin(), kSets.end(), take);
  std::for_each(kSingle.begin(), kSingle.end(), take);
  return text;
}

}  // namespace guestmm
