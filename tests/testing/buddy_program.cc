#include "tests/testing/buddy_program.h"

#include <type_traits>

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
    .observed_from = Order(2)};

const BuddyWorld kTwoZonesWorld = {
    .name = "kTwoZonesWorld",
    .options = {.memory = {Range(kDma32End - 27, kDma32End + 27)},
                .cpus = 2,
                .min_free_kbytes = 32,
                .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}},
    .observed_from = Order(0)};

std::vector<const BuddyWorld*> AllBuddyWorlds() {
  return {&kBareWorld, &kCachedWorld, &kWatermarkWorld, &kHolesWorld,
          &kTwoZonesWorld};
}

std::string ToCode(const Operation& operation) {
  return std::visit(
      [](const auto& op) -> std::string {
        using T = std::decay_t<decltype(op)>;
        if constexpr (std::is_same_v<T, Alloc>) {
          return absl::StrCat("Alloc{", op.cpu, ", ", op.order, "}");
        } else if constexpr (std::is_same_v<T, Free>) {
          return absl::StrCat("Free{", op.cpu, ", ", op.slot, "}");
        } else if constexpr (std::is_same_v<T, Drain>) {
          return "Drain{}";
        } else if constexpr (std::is_same_v<T, Isolate>) {
          return absl::StrCat("Isolate{", op.nth, "}");
        } else {
          return absl::StrCat("Return{", op.slot, "}");
        }
      },
      operation);
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
    const uint64_t kind = random.Below(32);
    if (kind == 0) {
      program.push_back(Drain{});
    } else if (kind <= 3) {
      program.push_back(Isolate{random.Below(8)});
    } else if (kind <= 7) {
      program.push_back(Return{random.Below(8)});
    } else if (random.Below(10) < allocs_of_10) {
      // Order 0 in half of the cases, order 1 in a quarter...
      const auto bits = random.Next() | 1 << 4;
      program.push_back(Alloc{cpu, __builtin_ctzll(bits)});
    } else {
      program.push_back(Free{cpu, random.Below(64)});
    }
  }
  return program;
}

Program ProgramFromBytes(std::span<const uint8_t> bytes) {
  Program program;
  for (; bytes.size() >= 3; bytes = bytes.subspan(3)) {
    const int cpu = bytes[1];
    const uint8_t argument = bytes[2];
    switch (bytes[0] % 8) {
      case 0:
      case 1:
        program.push_back(Alloc{cpu, argument});
        break;
      case 2:
        program.push_back(Alloc{cpu, 0});
        break;
      case 3:
      case 4:
        program.push_back(Free{cpu, argument});
        break;
      case 5:
        program.push_back(Drain{});
        break;
      case 6:
        program.push_back(Isolate{argument});
        break;
      default:
        program.push_back(Return{argument});
        break;
    }
  }
  return program;
}

}  // namespace guestmm::buddy
