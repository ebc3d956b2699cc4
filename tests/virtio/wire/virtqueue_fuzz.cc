// Both sides of a queue, each with memory that the other may have written. The
// input is a program of steps: some are correct, others overwrite a word of the
// rings.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"

namespace guestmm {
namespace {

// One step: four bytes of the input.
struct Step {
  uint8_t what;
  uint8_t a;
  uint16_t b;
};
static_assert(sizeof(Step) == 4);

const GuestRam& Ram() {
  static const std::unique_ptr<GuestRam> ram = *GuestRam::Create(
      {.regions = {{Gpa(0), 64 * kKiB}}, .huge_pages = HugePages::kForbid});
  return *ram;
}

void Run(std::span<const uint8_t> input) {
  if (input.size() < 4) return;
  const auto size = static_cast<uint16_t>(1 << (input[0] % 5));
  const VirtqueueFeatures features = {.indirect = (input[0] & 0x40) != 0,
                                      .event_index = (input[0] & 0x80) != 0};
  const auto start = static_cast<uint16_t>(input[1] | input[2] << 8);
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0x1000), size);
  // A queue of 1 has no chains that need a table.
  const uint16_t tables = size == 1 ? 0 : input[3] % (size + 1u);
  const uint16_t entries = size == 1 ? 0 : 2 + (input[3] >> 5) % (size - 1u);
  const IndirectTables area = LayOutTables(layout, tables, entries);
  DriverQueue driver = *DriverQueue::Create(
      Ram(), layout, {.features = features, .tables = area, .start = start});
  DeviceQueue device = *DeviceQueue::Create(Ram(), layout, features, start);
  const VirtqueueMemory memory = *VirtqueueMemory::Map(Ram(), layout);
  // Nothing may fail until a word was forged.
  bool is_honest = true;
  uint64_t next_token = 0;
  std::vector<bool> token_out;
  std::vector<uint16_t> at_device;

  for (size_t at = 4; at + sizeof(Step) <= input.size(); at += sizeof(Step)) {
    const Step step = {
        .what = input[at],
        .a = input[at + 1],
        .b = static_cast<uint16_t>(input[at + 2] | input[at + 3] << 8)};
    switch (step.what % 8) {
      case 0:
      case 1: {
        const std::vector<GpaRange> ranges(step.a % (size + 2u),
                                           {ToGpa(Pfn(step.b)), kPageSize});
        const bool has_table = 1 < ranges.size() &&
                               ranges.size() <= area.entries &&
                               driver.free_tables() > 0;
        const bool fits =
            !ranges.empty() && ranges.size() <= size &&
            (has_table ? 1 : ranges.size()) <= driver.free_descriptors();
        const absl::Status status = driver.Add({}, ranges, next_token);
        GUESTMM_CHECK(status.ok() == fits);
        if (!fits) break;
        ++next_token;
        token_out.push_back(true);
        break;
      }
      case 2:
      case 3: {
        const auto chain = device.Pop();
        GUESTMM_CHECK(chain.ok() || !is_honest);
        if (!chain.ok() || !chain->has_value()) break;
        const auto length = (*chain)->descriptors.size();
        const bool has_fault = (*chain)->table_fault != TableFault::kNone;
        GUESTMM_CHECK((has_fault || 0 < length) && length <= size);
        GUESTMM_CHECK(!has_fault || (features.indirect && !is_honest));
        for (const VirtqDesc& descriptor : (*chain)->descriptors) {
          GUESTMM_CHECK(!features.indirect ||
                        (descriptor.flags & kVirtqDescIndirect) == 0);
        }
        at_device.push_back((*chain)->head);
        GUESTMM_CHECK(at_device.size() <= size);
        break;
      }
      case 4: {
        if (at_device.empty()) break;
        const auto it = at_device.begin() + step.a % at_device.size();
        device.Push(*it, step.b % 2 == 0 ? 0 : kPageSize);
        at_device.erase(it);
        break;
      }
      case 5: {
        const auto used = driver.GetUsed();
        GUESTMM_CHECK(used.ok() || !is_honest);
        if (!used.ok() || !used->has_value()) break;
        // Each chain is returned once, whatever the device writes.
        GUESTMM_CHECK((*used)->token < next_token);
        GUESTMM_CHECK(token_out[(*used)->token]);
        token_out[(*used)->token] = false;
        break;
      }
      case 6:
        if (step.a % 2 == 0) {
          static_cast<void>(driver.EnableNotifications());
          static_cast<void>(device.EnableNotifications());
        } else {
          driver.DisableNotifications();
          device.DisableNotifications();
        }
        static_cast<void>(driver.NeedsKick());
        static_cast<void>(device.NeedsNotification());
        break;
      default: {
        is_honest = false;
        const uint16_t slot = memory.slot(step.a);
        switch (step.a >> 5) {
          case 0:
            memory.available_idx().store(step.b);
            break;
          case 1:
            memory.used_idx().store(step.b);
            break;
          case 2:
            memory.available_ring(slot).store(step.b);
            break;
          case 3:
            memory.StoreUsed(slot, {.id = step.b, .len = step.b});
            break;
          case 4:
            memory.available_idx().store(static_cast<uint16_t>(
                memory.available_idx().load() + step.b % 4));
            break;
          case 5:
            memory.used_idx().store(
                static_cast<uint16_t>(memory.used_idx().load() + step.b % 4));
            break;
          case 6:
            if (step.a % 2 == 0) {
              memory.avail_event().store(step.b);
            } else {
              memory.used_event().store(step.b);
            }
            [[fallthrough]];
          default: {
            // A descriptor of a buffer, or of a table: one of the driver's, or
            // near them.
            VirtqDesc forged = {.addr = step.b,
                                .len = step.b,
                                .flags = static_cast<uint16_t>(step.b % 8),
                                .next = static_cast<uint16_t>(step.b / 8 % 32)};
            if ((forged.flags & kVirtqDescIndirect) != 0) {
              forged.addr = step.what < 0x80
                                ? area.start.value() + step.b / 256
                                : step.b * uint64_t{16};  // of RAM, 1 in 16
              forged.len = step.b / 8 % 32 * 4;
            }
            memory.StoreDescriptor(slot, forged);
            // The same descriptor in a table.
            if (area.count > 0) {
              const uint64_t at_entry = step.b % (area.bytes() / 16) * 16;
              StoreDescriptorAt(
                  Ram().Translate({area.start + at_entry, 16})->bytes().data(),
                  forged);
            }
            break;
          }
        }
        break;
      }
    }
    const absl::Status in_driver = driver.CheckInvariants();
    GUESTMM_CHECK(in_driver.ok()) << std::string(in_driver.message());
    const absl::Status in_device = device.CheckInvariants();
    GUESTMM_CHECK(in_device.ok()) << std::string(in_device.message());
    GUESTMM_CHECK(at_device.size() == device.outstanding());
  }
}

}  // namespace
}  // namespace guestmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  guestmm::Run({data, size});
  return 0;
}
