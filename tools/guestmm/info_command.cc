#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/proc_text.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/info_json.h"

namespace guestmm::tools {
namespace {

// A /proc text that --show can print.
struct Text {
  std::string name;
  std::string (*make)(const PageAllocator&);
};

std::vector<Text> AllTexts() {
  return {{"buddyinfo", BuddyInfo},
          {"pagetypeinfo", PageTypeInfo},
          {"zoneinfo", ZoneInfo},
          {"vmstat", VmStatText}};
}

// The options of the command line.
struct InfoArguments {
  // A PC with 4 GiB; the fourth is above the hole for devices.
  MemoryMap memory = MemoryMap::Pc(4 * kGiB);
  PageCount movable;
  NodeDistances distances;
  std::optional<uint64_t> cpus;
  std::optional<uint64_t> min_free_kbytes;
  KernelVersion kernel = KernelVersion::kV5_3;
  std::optional<uint64_t> shuffle;
  std::optional<uint64_t> churn;
  std::optional<uint64_t> seed;
  bool json = false;
  std::vector<Text> show = {AllTexts()[0], AllTexts()[1], AllTexts()[2]};

  PageAllocatorOptions ToOptions() const {
    return {.memory = memory,
            .movable = movable,
            .distances = distances,
            .cpus = static_cast<int>(cpus.value_or(1)),
            .min_free_kbytes = min_free_kbytes,
            .per_cpu_lists = kernel,
            .placement = {.rules = kernel, .shuffle_seed = shuffle}};
  }
};

std::vector<std::string> Split(const std::string& text, char at) {
  return absl::StrSplit(text, at);
}

absl::StatusOr<PageCount> ParsePages(const std::string& text) {
  const std::optional<uint64_t> bytes = ParseBytes(text);
  if (!bytes || *bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(
        text + ": must be whole pages of 4 KiB, as in 8K or 1GiB");
  }
  return PageCount(*bytes / kPageSize);
}

absl::StatusOr<NodeDistances> ParseDistances(const std::string& text) {
  NodeDistances distances;
  for (const std::string& row : Split(text, ';')) {
    distances.emplace_back();
    for (const std::string& word : Split(row, ',')) {
      int distance = 0;
      if (!absl::SimpleAtoi(word, &distance) || distance < 10 ||
          distance > 255) {
        return absl::InvalidArgumentError(
            absl::StrCat(word.empty() ? "\"\"" : word,
                         ": must be 10 to 255; rows are as in "
                         "\"10,20;20,10\""));
      }
      distances.back().push_back(distance);
    }
  }
  return distances;
}

absl::StatusOr<std::vector<Text>> ParseTexts(const std::string& text) {
  const std::vector<Text> all = AllTexts();
  std::vector<Text> texts;
  for (const std::string& name : Split(text, ',')) {
    const auto found = std::find_if(
        all.begin(), all.end(), [&](const Text& t) { return t.name == name; });
    if (found == all.end()) {
      std::vector<std::string> names;
      for (const Text& t : all) names.push_back(t.name);
      return absl::InvalidArgumentError(absl::StrCat(
          name.empty() ? "\"\"" : name, ": ", MustBeOneOf(name, names)));
    }
    texts.push_back(*found);
  }
  return texts;
}

// Allocates and frees blocks, mostly small ones, with the gfp of programs and
// of the kernel, each on a random vCPU. The share of frees grows from none to
// two thirds of the requests, so that memory fills and then gets holes.
void Churn(PageAllocator& allocator, uint64_t requests, uint64_t seed) {
  constexpr std::array<Gfp, 4> kGfps = {kGfpUser, kGfpKernel, kGfpReclaimable,
                                        kGfpAtomic};
  struct Block {
    Pfn pfn;
    Order order;
  };
  Random random(seed);
  std::vector<Block> blocks;
  for (uint64_t i = 0; i < requests; ++i) {
    const auto cpu =
        static_cast<int>(random.Below(static_cast<uint64_t>(allocator.cpus())));
    if (blocks.empty() || random.Below(3 * requests) >= 2 * i) {
      // Each order is half as frequent as the one below it.
      const Order order(
          std::min(std::countr_zero(random.Next()), kPageblockOrder.value()));
      const Gfp gfp = kGfps[random.Below(kGfps.size())];
      if (const auto pfn = allocator.Allocate(cpu, order, gfp)) {
        blocks.push_back({.pfn = *pfn, .order = order});
        continue;
      }
    }
    if (blocks.empty()) continue;
    std::swap(blocks[random.Below(blocks.size())], blocks.back());
    allocator.Free(cpu, blocks.back().pfn, blocks.back().order);
    blocks.pop_back();
  }
}

int RunInfoCommand(const InfoArguments& arguments) {
  const absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create(arguments.ToOptions());
  if (!allocator.ok()) {
    // The options that are not checked alone: they must fit together.
    const bool is_distances =
        absl::StartsWith(allocator.status().message(), "distances");
    return Fail("info", allocator.status(), is_distances ? "--" : "--memory: ");
  }
  Churn(**allocator, arguments.churn.value_or(0), arguments.seed.value_or(1));
  if (arguments.json) {
    std::cout << InfoJson(**allocator);
    return kExitSuccess;
  }
  for (size_t i = 0; i < arguments.show.size(); ++i) {
    const Text& text = arguments.show[i];
    if (arguments.show.size() > 1) {
      std::cout << (i == 0 ? "" : "\n") << "==> " << text.name << " <==\n";
    }
    std::cout << text.make(**allocator);
  }
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddInfoCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "info",
      "Prints /proc/buddyinfo, pagetypeinfo, zoneinfo and vmstat of a guest "
      "with the given memory map. Allocates no guest memory, only the "
      "allocator's metadata, 9 bytes per page.");
  const auto arguments = std::make_shared<InfoArguments>();
  command.footer(
      "guestmm info --show buddyinfo\n"
      "guestmm info --memory 0-3G,4G-31G,31G-61G@1 --cpus 24 --churn 200000");
  AddParsed(command, "--memory", "MAP", MemoryMap::Parse, arguments->memory,
            "Memory ranges, each with its node unless that is 0, as in "
            "0-3G,4G-31G,31G-61G@1 [0-3G,4G-5G]");
  AddParsed(
      command, "--movable", kSizeType, ParsePages, arguments->movable,
      "Size of ZONE_MOVABLE (movablecore=); as in the kernel, all memory or "
      "more means none [0]");
  AddParsed(command, "--distances", "ROWS", ParseDistances,
            arguments->distances,
            "NUMA distances, one row per node, as in '10,20;20,10' "
            "[10 within a node, 20 between nodes]");
  AddInteger(command, "--cpus", 1, 1024, arguments->cpus,
             "Number of vCPUs, spread evenly over the nodes [1]");
  AddInteger(command, "--min-free-kbytes", 0, uint64_t{1} << 30,
             arguments->min_free_kbytes,
             "min_free_kbytes, which sets the watermarks [the kernel's "
             "formula]");
  std::vector<std::pair<std::string, KernelVersion>> versions;
  for (size_t i = 0; i < kKernelVersionNames.size(); ++i) {
    versions.emplace_back(kKernelVersionNames[i],
                          static_cast<KernelVersion>(i));
  }
  AddChoice<KernelVersion>(
      command, "--kernel", versions, arguments->kernel,
      "Linux version whose allocator is modelled: its per-CPU lists (5.3: of "
      "order 0; 6.1: of orders 0 to 3 and 9; 6.12: of a size that follows the "
      "load) and the order of its free lists [5.3]");
  AddInteger(command, "--shuffle", 0, ~uint64_t{0}, arguments->shuffle,
             "Seed of the shuffle of the free lists at boot [no shuffle]");
  AddInteger(command, "--churn", 0, uint64_t{1} << 40, arguments->churn,
             "Number of random allocations and frees before printing [0]");
  AddInteger(command, "--seed", 0, ~uint64_t{0}, arguments->seed,
             "Seed of the requests of --churn [1]");
  AddParsed(command, "--show", "TEXTS", ParseTexts, arguments->show,
            "Texts to print, separated by commas "
            "[buddyinfo,pagetypeinfo,zoneinfo]");
  command.add_flag("--json", arguments->json,
                   "Print what all the texts say as JSON");
  command.callback([&command, arguments] {
    if (arguments->churn.value_or(0) == 0) {
      RefuseUnused(command, {"--seed"}, "without --churn");
    }
    if (arguments->json) {
      RefuseUnused(command, {"--show"}, "with --json, which has all of them");
    }
  });
  return [arguments] { return RunInfoCommand(*arguments); };
}

}  // namespace guestmm::tools
