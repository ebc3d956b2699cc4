#include "src/buddy/page_allocator_options.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// 4 GiB in single pages: beyond any use, and what rings are made for.
constexpr uint32_t kMaxPerCpuPages = 1 << 20;

// 1 TiB: what is above would not fit the watermarks' arithmetic.
constexpr uint64_t kMaxMinFreeKbytes = uint64_t{1} << 30;

// What a pageblock's zone index has room for.
constexpr int kMaxNodes = 60;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckOrders(const PageAllocatorOptions& options) {
  if (options.max_order > kMaxOrder) {
    return Invalid("max_order is ", options.max_order.value(), "; at most ",
                   kMaxOrder.value(), " is allowed");
  }
  if (*options.pageblock_order > options.max_order) {
    return Invalid("pageblock_order is ", options.pageblock_order->value(),
                   "; at most max_order, ", options.max_order.value(),
                   ", is allowed");
  }
  if (options.section_order < options.max_order ||
      options.section_order > Order(24)) {
    return Invalid("section_order is ", options.section_order.value(),
                   "; max_order, ", options.max_order.value(),
                   ", to 24 is allowed");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const PageAllocatorOptions& options) {
  if (options.memory.empty()) {
    return Invalid("the allocator was given no memory");
  }
  const MemoryRange* before = nullptr;
  for (const MemoryRange& range : options.memory) {
    const auto text = [&] {
      return absl::StrFormat("memory range of pages [0x%x, 0x%x)",
                             range.start.value(), range.end.value());
    };
    if ((before != nullptr && range.start < before->end) ||
        range.end <= range.start) {
      return Invalid(text(),
                     ": ranges must be non-empty, ascending and disjoint");
    }
    if (range.node < 0 || range.node >= kMaxNodes) {
      return Invalid(text(), ": node ", range.node, "; 0 to ", kMaxNodes - 1,
                     " is allowed");
    }
    if (before != nullptr && before->node != range.node &&
        before->end.AlignUp(*options.pageblock_order) >
            range.start.AlignDown(*options.pageblock_order)) {
      return Invalid(text(), ": shares a block of ",
                     options.pageblock_order->pages().value(),
                     " pages with node ", before->node);
    }
    before = &range;
  }
  if (*options.hotplug_end < options.memory.back().end) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "hotplug_end is pfn 0x%x; memory ends at 0x%x",
        options.hotplug_end->value(), options.memory.back().end.value()));
  }
  return absl::OkStatus();
}

absl::Status CheckNodes(const PageAllocatorOptions& options) {
  const size_t nodes = options.distances.size();
  if (nodes > kMaxNodes) {
    return Invalid("distances for ", nodes, " nodes; at most ", kMaxNodes,
                   " is allowed");
  }
  for (size_t node = 0; node < nodes; ++node) {
    const size_t entries = options.distances[node].size();
    if (entries != nodes) {
      return Invalid("distances has a row of ", entries, " for ", nodes,
                     " nodes, that of node ", node);
    }
  }
  for (const MemoryRange& range : options.memory) {
    if (static_cast<size_t>(range.node) >= nodes) {
      return Invalid("memory of node ", range.node, ", but distances for ",
                     nodes, " nodes");
    }
  }
  if (options.cpus < 1) {
    return Invalid("cpus is ", options.cpus, "; at least 1 is needed");
  }
  if (options.cpu_nodes.size() != static_cast<size_t>(options.cpus)) {
    return Invalid("cpu_nodes has ", options.cpu_nodes.size(), " entries for ",
                   options.cpus, " cpus");
  }
  for (size_t cpu = 0; cpu < options.cpu_nodes.size(); ++cpu) {
    const int node = options.cpu_nodes[cpu];
    if (node < 0 || static_cast<size_t>(node) >= nodes) {
      return Invalid("cpu ", cpu, " is on node ", node, "; there are ", nodes,
                     " nodes");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLimits(const PageAllocatorOptions& options) {
  if (options.min_free_kbytes && *options.min_free_kbytes > kMaxMinFreeKbytes) {
    return Invalid("min_free_kbytes is ", *options.min_free_kbytes,
                   "; at most ", kMaxMinFreeKbytes, " is allowed");
  }
  if (!options.per_cpu_limits) return absl::OkStatus();
  if (options.per_cpu_limits->batch == 0) {
    return Invalid("per_cpu_limits.batch is 0; at least 1 is needed");
  }
  const uint32_t largest =
      std::max(options.per_cpu_limits->batch, options.per_cpu_limits->high);
  if (largest > kMaxPerCpuPages) {
    return Invalid("per_cpu_limits has a limit of ", largest,
                   " pages; at most ", kMaxPerCpuPages, " is allowed");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PageAllocatorOptions> Resolve(PageAllocatorOptions options) {
  if (!options.pageblock_order) {
    options.pageblock_order = std::min(kPageblockOrder, options.max_order);
  }
  if (!options.hotplug_end && !options.memory.empty()) {
    options.hotplug_end = options.memory.back().end;
  }
  absl::Status status = CheckOrders(options);
  if (status.ok()) status = CheckMemory(options);
  if (!status.ok()) return status;

  if (options.distances.empty()) {
    int highest = 0;
    for (const MemoryRange& range : options.memory) {
      highest = std::max(highest, range.node);
    }
    const auto nodes = static_cast<size_t>(highest) + 1;
    options.distances.assign(nodes, std::vector<int>(nodes, 20));
    for (size_t node = 0; node < nodes; ++node) {
      options.distances[node][node] = 10;
    }
  }
  if (options.cpu_nodes.empty()) {
    const auto nodes = static_cast<int>(options.distances.size());
    for (int cpu = 0; cpu < options.cpus; ++cpu) {
      options.cpu_nodes.push_back(
          static_cast<int>(int64_t{cpu} * nodes / options.cpus));
    }
  }
  status = CheckNodes(options);
  if (status.ok()) status = CheckLimits(options);
  if (!status.ok()) return status;
  return options;
}

}  // namespace guestmm
