#include "src/buddy/page_allocator_options.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

// 4 GiB in single pages: more than is useful; bounds the size of the rings.
constexpr uint32_t kMaxPerCpuPages = 1 << 20;

// 1 TiB: more would overflow the computation of watermarks.
constexpr uint64_t kMaxMinFreeKbytes = uint64_t{1} << 30;

// Limited by the 8-bit zone index of a pageblock.
constexpr int kMaxNodes = 60;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckOrders(const PageAllocatorOptions& options) {
  if (options.max_order > kMaxOrder) {
    return Invalid("max_order=", options.max_order.value(),
                   ": must be at most ", kMaxOrder.value());
  }
  if (*options.pageblock_order > options.max_order) {
    return Invalid("pageblock_order=", options.pageblock_order->value(),
                   ": must be at most max_order, ", options.max_order.value());
  }
  if (options.section_order < options.max_order ||
      options.section_order > Order(24)) {
    return Invalid("section_order=", options.section_order.value(),
                   ": must be max_order, ", options.max_order.value(),
                   ", to 24");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(const PageAllocatorOptions& options) {
  if (options.memory.empty()) {
    return Invalid("memory: must not be empty");
  }
  const MemoryRange* before = nullptr;
  for (const MemoryRange& range : options.memory) {
    const auto text = [&] {
      return absl::StrFormat("memory range of pages [0x%x, 0x%x)",
                             range.start.value(), range.end.value());
    };
    if ((before != nullptr && range.start < before->end) ||
        range.end <= range.start) {
      return Invalid(text(), ": must be non-empty, ascending and disjoint");
    }
    if (range.node < 0 || range.node >= kMaxNodes) {
      return Invalid(text(), ": node ", range.node, " must be 0 to ",
                     kMaxNodes - 1);
    }
    if (before != nullptr && before->node != range.node &&
        before->end.AlignUp(*options.pageblock_order) >
            range.start.AlignDown(*options.pageblock_order)) {
      return Invalid(text(), ": must not share a pageblock of ",
                     options.pageblock_order->pages().value(),
                     " pages with node ", before->node);
    }
    before = &range;
  }
  if (*options.hotplug_end < options.memory.back().end) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "hotplug_end=pfn 0x%x: must be at least the end of memory, 0x%x",
        options.hotplug_end->value(), options.memory.back().end.value()));
  }
  return absl::OkStatus();
}

absl::Status CheckNodes(const PageAllocatorOptions& options) {
  const size_t nodes = options.distances.size();
  if (nodes > kMaxNodes) {
    return Invalid("distances: must be of at most ", kMaxNodes, " nodes, not ",
                   nodes);
  }
  for (size_t node = 0; node < nodes; ++node) {
    const size_t entries = options.distances[node].size();
    if (entries != nodes) {
      return Invalid("distances: the row of node ", node, " must have ", nodes,
                     " entries, not ", entries);
    }
  }
  for (const MemoryRange& range : options.memory) {
    if (static_cast<size_t>(range.node) >= nodes) {
      return Invalid("distances: must have a row for node ", range.node,
                     ", which has memory");
    }
  }
  if (options.cpus < 1) {
    return Invalid("cpus=", options.cpus, ": must be at least 1");
  }
  if (options.cpu_nodes.size() != static_cast<size_t>(options.cpus)) {
    return Invalid("cpu_nodes: must have an entry for each of ", options.cpus,
                   " cpus, not ", options.cpu_nodes.size());
  }
  for (size_t cpu = 0; cpu < options.cpu_nodes.size(); ++cpu) {
    const int node = options.cpu_nodes[cpu];
    if (node < 0 || static_cast<size_t>(node) >= nodes) {
      return Invalid("cpu_nodes: node ", node, " of cpu ", cpu,
                     " must be 0 to ", nodes - 1);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLimits(const PageAllocatorOptions& options) {
  if (options.min_free_kbytes && *options.min_free_kbytes > kMaxMinFreeKbytes) {
    return Invalid("min_free_kbytes=", *options.min_free_kbytes,
                   ": must be at most ", kMaxMinFreeKbytes);
  }
  if (!options.per_cpu_limits) return absl::OkStatus();
  if (options.per_cpu_limits->batch == 0) {
    return Invalid("per_cpu_limits.batch=0: must be at least 1");
  }
  const uint32_t largest =
      std::max({options.per_cpu_limits->batch, options.per_cpu_limits->high,
                options.per_cpu_limits->high_max});
  if (largest > kMaxPerCpuPages) {
    return Invalid("per_cpu_limits=", largest, " pages: must be at most ",
                   kMaxPerCpuPages);
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
