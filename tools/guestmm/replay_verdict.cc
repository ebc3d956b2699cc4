#include "tools/guestmm/replay_verdict.h"

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "tools/guestmm/table.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

std::string PercentOf(uint64_t part, uint64_t all) {
  if (all == 0) return "-";
  return absl::StrFormat(
      "%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(all));
}

void PrintMemory(const MemoryUse& use, uint64_t all) {
  Table table({"memory at the start", "bytes", "share"});
  const auto add = [&](const std::string& name, uint64_t bytes) {
    table.AddRow({name, FormatBytes(bytes), PercentOf(bytes, all)});
  };
  add("in use", use.anonymous + use.page_cache + use.slab + use.other);
  add("  anonymous", use.anonymous);
  add("  page cache", use.page_cache);
  add("  slab", use.slab);
  add("  kernel and other", use.other);
  add("free", use.free);
  add("not managed", use.unmanaged);
  std::cout << table;
}

void PrintFreeAtEnd(std::span<const ReplayResult> results) {
  Table table({"free at the end", "got back", "fragmented", "below order",
               "watermark", "not due"});
  for (const ReplayResult& result : results) {
    const FreeAtEnd& free = result.free_at_end;
    // Without a policy there is no other reason.
    const bool is_off = result.options.policy == kMechanismOff;
    const auto share = [&](uint64_t bytes) {
      return is_off ? "-" : PercentOf(bytes, free.bytes);
    };
    // "under", as programs find the rows of the other table by the policy.
    table.AddRow({"under " + result.options.policy,
                  PercentOf(free.with_host, free.bytes), share(free.fragmented),
                  share(free.below_order), share(free.below_watermark),
                  share(free.not_due)});
  }
  std::cout << table
            << Wrap(
                   "fragmented: in units of the host that the guest uses in "
                   "part;\n"
                   "below order: in blocks smaller than the policy reports;\n"
                   "watermark: in zones low on memory, which report nothing;\n"
                   "not due: not reported before the replay ended\n",
                   OutputColumns());
}

}  // namespace

void PrintVerdict(const ReplayVerdict& verdict,
                  std::span<const ReplayResult> results) {
  std::cout << "\nverdict\n\n";
  if (verdict.memory) {
    PrintMemory(*verdict.memory, results.front().memory_bytes);
    std::cout << "\n";
  }
  PrintFreeAtEnd(results);
  const size_t columns = OutputColumns();
  std::cout << "\n"
            << Wrap(absl::StrCat(
                        "how far this recording can be trusted: ",
                        std::string(Name(verdict.trust)),
                        verdict.doubts.empty()
                            ? ": its files fit, nothing was lost, and few "
                              "events could not be followed"
                            : ""),
                    columns)
            << "\n";
  for (const std::string& doubt : verdict.doubts) {
    std::cout << "- " << Wrap(doubt, columns, /*indent=*/2) << "\n";
  }
  if (verdict.advice.empty()) return;
  std::cout << "\nwhat to type for\n";
  for (const ReplayVerdict::Advice& advice : verdict.advice) {
    std::cout << "- " << Wrap(advice.purpose + ":", columns, /*indent=*/2)
              << "\n  " << WrapCommand(advice.command, columns, /*indent=*/2)
              << "\n";
  }
}

}  // namespace guestmm::tools
