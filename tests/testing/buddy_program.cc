#include "tests/testing/buddy_program.h"

#include <array>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace guestmm::buddy {
namespace {

constexpr uint64_t kDma32End = 4 * kGiB / kPageSize;

MemoryRange Range(uint64_t start, uint64_t end) {
  return {.start = Pfn(start), .end = Pfn(end)};
}

}  // namespace

const BuddyWorld kBareWorld = {
    .name = "kBareWorld",
    .options = {.memory = {Range(0, 16)},
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 0}},
    .observed_from = Order(0)};

const BuddyWorld kCachedWorld = {
    .name = "kCachedWorld",
    .options = {.memory = {Range(0, 16)},
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 3}},
    .observed_from = Order(1)};

const BuddyWorld kTiny612World = {
    .name = "kTiny612World",
    .options = {.memory = {Range(0, 16)},
                .max_order = Order(3),
                .pageblock_order = Order(2),
                .min_free_kbytes = 16,
                .per_cpu_lists = KernelVersion::kV6_12,
                .per_cpu_limits =
                    PerCpuLimits{.batch = 1, .high = 2, .high_max = 6},
                .placement = {.rules = KernelVersion::kV6_12}},
    .observed_from = Order(1)};

const BuddyWorld kWatermarkWorld = {
    .name = "kWatermarkWorld",
    .options = {.memory = {Range(0, 64)},
                .cpus = 2,
                .min_free_kbytes = 32,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 7}},
    .observed_from = Order(2)};

const BuddyWorld kHolesWorld = {
    .name = "kHolesWorld",
    .options = {.memory = {Range(1, 3), Range(5, 23), Range(24, 32),
                           Range(41, 61)},
                .cpus = 2,
                .max_order = Order(3),
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}},
    .observed_from = Order(2),
    .taken = TakenBlocks::kIgnore};

const BuddyWorld kTwoZonesWorld = {
    .name = "kTwoZonesWorld",
    .options = {.memory = {Range(kDma32End - 27, kDma32End + 27)},
                .cpus = 2,
                .min_free_kbytes = 32,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}},
    .observed_from = Order(0)};

const BuddyWorld kTypesWorld = {
    .name = "kTypesWorld",
    .options = {.memory = {Range(0, 16)},
                .max_order = Order(3),
                .pageblock_order = Order(2),
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 0}},
    .observed_from = Order(2),
    .gfps = {kGfpUser, kGfpKernel, kGfpReclaimable},
    .reports = true};

const BuddyWorld kReportingWorld = {
    .name = "kReportingWorld",
    .options = {.memory = {Range(0, 16)},
                .max_order = Order(2),
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 3}},
    .observed_from = Order(1),
    .reports = true};

const BuddyWorld kStealingWorld = {
    .name = "kStealingWorld",
    .options = {.memory = {Range(kDma32End - 16, kDma32End - 3),
                           Range(kDma32End + 3, kDma32End + 61)},
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .min_free_kbytes = 16,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 6}},
    .observed_from = Order(2)};

const BuddyWorld kReserveWorld = {
    .name = "kReserveWorld",
    .options = {.memory = {Range(kDma32End - 16, kDma32End + 160)},
                .movable = PageCount(128),
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .min_free_kbytes = 256,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}},
    .observed_from = Order(2)};

const BuddyWorld kTwoNodesWorld = {
    .name = "kTwoNodesWorld",
    .options = {.memory = {Range(kDma32End - 24, kDma32End + 40),
                           {.start = Pfn(kDma32End + 40),
                            .end = Pfn(kDma32End + 72),
                            .node = 1}},
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .min_free_kbytes = 48,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 6}},
    .observed_from = Order(2)};

const BuddyWorld kLinux61World = {
    .name = "kLinux61World",
    .options = {.memory = {Range(kDma32End - 32, kDma32End + 96)},
                .cpus = 2,
                .max_order = Order(5),
                .pageblock_order = Order(4),
                .min_free_kbytes = 16,
                .per_cpu_lists = KernelVersion::kV6_1,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 14},
                .placement = {.rules = KernelVersion::kV6_1}},
    .observed_from = Order(2)};

const BuddyWorld kLinux612World = {
    .name = "kLinux612World",
    .options = {.memory = {Range(kDma32End - 64, kDma32End + 128)},
                .cpus = 2,
                .max_order = Order(5),
                .pageblock_order = Order(4),
                .min_free_kbytes = 128,
                .per_cpu_lists = KernelVersion::kV6_12,
                .per_cpu_limits =
                    PerCpuLimits{.batch = 2, .high = 8, .high_max = 40},
                .placement = {.rules = KernelVersion::kV6_12}},
    .observed_from = Order(2)};

const BuddyWorld kShuffledWorld = {
    .name = "kShuffledWorld",
    .options = {.memory = {Range(0, 48)},
                .max_order = Order(2),
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4},
                .placement = {.shuffle_seed = 7}},
    .observed_from = Order(0)};

const BuddyWorld kHotplugWorld = {
    .name = "kHotplugWorld",
    .options = {.memory = {Range(kDma32End, kDma32End + 48)},
                .movable = PageCount(16),
                .hotplug_end = Pfn(kDma32End + 64),
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .section_order = Order(4),
                .min_free_kbytes = 16,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}},
    .observed_from = Order(1)};

const BuddyWorld kHotplug61World = {
    .name = "kHotplug61World",
    .options = {.memory = {Range(kDma32End, kDma32End + 48)},
                .movable = PageCount(16),
                .hotplug_end = Pfn(kDma32End + 64),
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .section_order = Order(4),
                .min_free_kbytes = 0,
                .per_cpu_lists = KernelVersion::kV6_1,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 9},
                .placement = {.rules = KernelVersion::kV6_1}},
    .observed_from = Order(1)};

const BuddyWorld kHotplug612World = {
    .name = "kHotplug612World",
    .options = {.memory = {Range(kDma32End, kDma32End + 48)},
                .movable = PageCount(16),
                .hotplug_end = Pfn(kDma32End + 64),
                .cpus = 2,
                .max_order = Order(4),
                .pageblock_order = Order(3),
                .section_order = Order(4),
                .min_free_kbytes = 32,
                .per_cpu_lists = KernelVersion::kV6_12,
                .per_cpu_limits =
                    PerCpuLimits{.batch = 1, .high = 4, .high_max = 20},
                .placement = {.rules = KernelVersion::kV6_12}},
    .observed_from = Order(1)};

const BuddyWorld kTinyHotplugWorld = {
    .name = "kTinyHotplugWorld",
    .options = {.memory = {Range(0, 16)},
                .max_order = Order(3),
                .pageblock_order = Order(2),
                .section_order = Order(3),
                .min_free_kbytes = 0,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 3}},
    .observed_from = Order(2),
    .pins = true,
    .reports = true};

std::vector<const BuddyWorld*> AllBuddyWorlds() {
  return {&kBareWorld,      &kCachedWorld,     &kTiny612World,
          &kWatermarkWorld, &kHolesWorld,      &kTwoZonesWorld,
          &kTypesWorld,     &kReportingWorld,  &kStealingWorld,
          &kReserveWorld,   &kTwoNodesWorld,   &kLinux61World,
          &kLinux612World,  &kShuffledWorld,   &kHotplugWorld,
          &kHotplug61World, &kHotplug612World, &kTinyHotplugWorld};
}

std::span<const NamedGfp> AllGfps() {
  // Half of the requests are for user memory.
  static constexpr std::array<NamedGfp, 24> kGfps = {{
      {"kGfpUser", kGfpUser},
      {"kGfpUser", kGfpUser},
      {"kGfpUser", kGfpUser},
      {"kGfpUser", kGfpUser},
      {"kGfpUser", kGfpUser},
      {"kGfpUser", kGfpUser},
      {"kGfpKernel", kGfpKernel},
      {"kGfpKernel", kGfpKernel},
      {"kGfpKernel", kGfpKernel},
      {"kGfpReclaimable", kGfpReclaimable},
      {"kGfpReclaimable", kGfpReclaimable},
      {"kGfpReclaimable", kGfpReclaimable},
      {"kGfpAtomic", kGfpAtomic},
      {"kGfpHigh", kGfpHigh},
      {"kGfpMemalloc", kGfpMemalloc},
      {"kGfpDma", kGfpDma},
      {"kGfpDma32", kGfpDma32},
      {"kGfpUser.PreferablyFrom(0)", kGfpUser.PreferablyFrom(0)},
      {"kGfpUser.PreferablyFrom(1)", kGfpUser.PreferablyFrom(1)},
      {"kGfpUser.OnlyFrom(0)", kGfpUser.OnlyFrom(0)},
      {"kGfpUser.OnlyFrom(1)", kGfpUser.OnlyFrom(1)},
      {"kGfpKernel.OnlyFrom(0)", kGfpKernel.OnlyFrom(0)},
      {"kGfpKernel.OnlyFrom(1)", kGfpKernel.OnlyFrom(1)},
      {"kGfpDma32.PreferablyFrom(1)", kGfpDma32.PreferablyFrom(1)},
  }};
  return kGfps;
}

namespace {

std::string ToCode(const Gfp& gfp) {
  const auto key = [](const Gfp& g) {
    return std::tuple(g.type, g.highest, g.reserves, g.may_reclaim, g.node,
                      g.this_node_only);
  };
  for (const NamedGfp& named : AllGfps()) {
    if (key(named.gfp) == key(gfp)) return named.name;
  }
  return "?";
}

struct Printer {
  std::string operator()(const Alloc& op) const {
    const std::string gfp = ToCode(op.gfp);
    return absl::StrCat("Alloc{", op.cpu, ", ", op.order,
                        gfp == "kGfpUser" ? "" : ", " + gfp, "}");
  }
  std::string operator()(const Free& op) const {
    return absl::StrCat("Free{", op.cpu, ", ", op.slot, "}");
  }
  std::string operator()(const Drain&) const { return "Drain{}"; }
  std::string operator()(const Refresh& op) const {
    return absl::StrCat("Refresh{", op.cpu, "}");
  }
  std::string operator()(const Isolate& op) const {
    return absl::StrCat("Isolate{", op.nth, "}");
  }
  std::string operator()(const Return& op) const {
    return absl::StrCat("Return{", op.slot,
                        op.to == ReturnTo::kTail ? ", ReturnTo::kTail}" : "}");
  }
  std::string operator()(const Mark& op) const {
    return absl::StrCat("Mark{", op.nth, "}");
  }
  std::string operator()(const Rotate& op) const {
    return absl::StrCat("Rotate{", op.nth, "}");
  }
  std::string operator()(const Pin& op) const {
    return absl::StrCat("Pin{", op.slot, "}");
  }
  std::string operator()(const Unpin& op) const {
    return absl::StrCat("Unpin{", op.cpu, ", ", op.nth, "}");
  }
  std::string operator()(const IsolateRange& op) const {
    return absl::StrCat("IsolateRange{", op.section, "}");
  }
  std::string operator()(const RestoreRange& op) const {
    return absl::StrCat("RestoreRange{", op.nth, "}");
  }
  std::string operator()(const TakeOffline& op) const {
    return absl::StrCat("TakeOffline{", op.section, "}");
  }
  std::string operator()(const BringOnline& op) const {
    return absl::StrCat("BringOnline{", op.section,
                        op.movable ? ", true}" : "}");
  }
};

}  // namespace

std::string ToCode(const Operation& operation) {
  return std::visit(Printer(), operation);
}

std::string ToCode(const Program& program) {
  std::string text = "{";
  for (const Operation& operation : program) {
    absl::StrAppend(&text, text.size() > 1 ? ", " : "", ToCode(operation));
  }
  return text + "}";
}

Program RandomProgram(Random& random, size_t length) {
  Program program;
  uint64_t allocs_of_10 = 6;
  for (size_t i = 0; i < length; ++i) {
    if (random.OneIn(40)) allocs_of_10 = random.Between(2, 8);
    const int cpu = static_cast<int>(random.Below(2));
    const uint64_t kind = random.Below(40);
    if (kind == 0) {
      if (random.OneIn(2)) {
        program.push_back(Drain{});
      } else {
        program.push_back(Refresh{cpu});
      }
    } else if (kind <= 3) {
      program.push_back(Isolate{random.Below(16)});
    } else if (kind <= 7) {
      const ReturnTo to =
          random.OneIn(2) ? ReturnTo::kTail : ReturnTo::kItsPlace;
      program.push_back(Return{random.Below(8), to});
    } else if (kind == 8) {
      // Often two times.
      const Pin pin = {random.Below(64)};
      program.push_back(pin);
      if (random.OneIn(2)) program.push_back(pin);
    } else if (kind == 9) {
      program.push_back(Unpin{cpu, random.Below(8)});
    } else if (kind == 10) {
      switch (random.Below(4)) {
        case 0:
          program.push_back(IsolateRange{random.Below(4)});
          break;
        case 1:
          program.push_back(RestoreRange{random.Below(4)});
          break;
        case 2:
          program.push_back(TakeOffline{random.Below(4)});
          break;
        default:
          program.push_back(BringOnline{random.Below(4), random.OneIn(2)});
          break;
      }
    } else if (kind <= 16) {
      program.push_back(Mark{random.Below(16)});
    } else if (kind <= 18) {
      program.push_back(Rotate{random.Below(16)});
    } else if (random.Below(10) < allocs_of_10) {
      // Order 0 in half of the cases, order 1 in a quarter...
      const auto bits = random.Next() | 1 << 4;
      program.push_back(Alloc{cpu, __builtin_ctzll(bits),
                              AllGfps()[random.Below(AllGfps().size())].gfp});
    } else {
      program.push_back(Free{cpu, random.Below(64)});
    }
  }
  return program;
}

Program ProgramFromBytes(std::span<const uint8_t> bytes) {
  Program program;
  for (; bytes.size() >= 4; bytes = bytes.subspan(4)) {
    const int cpu = bytes[1];
    const uint8_t argument = bytes[2];
    const Gfp& gfp = AllGfps()[bytes[3] % AllGfps().size()].gfp;
    switch (bytes[0] % 18) {
      case 0:
      case 1:
      case 2:
        program.push_back(Alloc{cpu, argument, gfp});
        break;
      case 3:
      case 4:
        program.push_back(Alloc{cpu, 0, gfp});
        break;
      case 5:
      case 6:
      case 7:
        program.push_back(Free{cpu, argument});
        break;
      case 8:
        if (bytes[3] % 2 == 0) {
          program.push_back(Refresh{cpu});
        } else {
          program.push_back(Drain{});
        }
        break;
      case 9:
        program.push_back(Isolate{argument});
        break;
      case 10:
        program.push_back(Return{argument, bytes[3] % 2 == 0
                                               ? ReturnTo::kItsPlace
                                               : ReturnTo::kTail});
        break;
      case 11:
        program.push_back(Pin{argument});
        break;
      case 12:
        program.push_back(Unpin{cpu, argument});
        break;
      case 13:
        if (bytes[3] % 2 == 0) {
          program.push_back(IsolateRange{argument});
        } else {
          program.push_back(RestoreRange{argument});
        }
        break;
      case 14:
        program.push_back(TakeOffline{argument});
        break;
      case 15:
        program.push_back(BringOnline{argument, bytes[3] % 2 == 1});
        break;
      case 16:
        program.push_back(Mark{argument});
        break;
      default:
        program.push_back(Rotate{argument});
        break;
    }
  }
  return program;
}

}  // namespace guestmm::buddy
