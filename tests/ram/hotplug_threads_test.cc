// Regions added and removed while other threads use guest RAM.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/random.h"
#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"

namespace guestmm::hotplug_threads_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::MakeRam;

// Removes and re-adds blocks while threads use them: a range with a translation
// is mapped and holds what its thread last wrote or, after a removal, zero.
TEST(HotplugThreadsTest, NothingIsLostUnderATranslation) {
  constexpr uint64_t kBlocks = 8;
  constexpr uint64_t kWriters = 3;
  constexpr int kRounds = 400;
  const uint64_t page = std::max(kPageSize, HostPageSize());
  const uint64_t block_bytes = kWriters * page;
  const auto ram = MakeRam({{Gpa(0), kBlocks * block_bytes}});
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0};

  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < kWriters; ++id) {
    threads.emplace_back([&, id] {
      Random random(id + 1);
      std::array<uint64_t, kBlocks> last = {};
      while (!stop) {
        const uint64_t block = random.Below(kBlocks);
        const auto own =
            ram->Translate({Gpa(block * block_bytes + id * page), page});
        if (!own) continue;
        uint64_t value = 0;
        std::memcpy(&value, own->bytes().data(), sizeof(value));
        GUESTMM_CHECK(value == 0 || value == last[block])
            << value << " is not " << last[block];
        last[block] = random.Next();
        std::memcpy(own->bytes().data(), &last[block], sizeof(value));
        std::memcpy(own->bytes().data() + page - sizeof(value), &last[block],
                    sizeof(value));
        std::memcpy(&value, own->bytes().data(), sizeof(value));
        GUESTMM_CHECK(value == last[block]);
        ++hits;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      const uint64_t most = kBlocks * block_bytes;
      GUESTMM_CHECK(ram->ResidentBytes().value() <= most);
      GUESTMM_CHECK(ram->bytes() <= most);
      for (const GpaRange& region : ram->regions()) {
        GUESTMM_CHECK(region.gpa.value() + region.bytes <= most);
      }
      // Otherwise the thread that adds and removes hardly gets the lock.
      std::this_thread::yield();
    }
  });

  Random random(99);
  std::array<bool, kBlocks> is_there;
  is_there.fill(true);
  int removed = 0;
  // Continues until both outcomes were seen, whatever the scheduler does.
  for (int round = 0; round < kRounds || removed == 0 || hits == 0; ++round) {
    const uint64_t i = random.Below(kBlocks);
    const GpaRange block = {Gpa(i * block_bytes), block_bytes};
    const absl::Status status =
        is_there[i] ? ram->RemoveRegion(block) : ram->AddRegion(block);
    if (status.ok()) {
      removed += is_there[i] ? 1 : 0;
      is_there[i] = !is_there[i];
    } else {
      EXPECT_TRUE(is_there[i]) << status;
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (uint64_t i = 0; i < kBlocks; ++i) {
    EXPECT_EQ(ByteAt(*ram, Gpa(i * block_bytes)) >= 0, is_there[i]);
  }
}

// A refused removal does not make the memory unavailable even for an instant.
TEST(HotplugThreadsTest, ARefusedRemovalIsNeverSeen) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> looks{0};
  std::optional<Translation> pinned = ram->Translate({Gpa(kMiB), 1});
  std::thread reader([&] {
    while (!stop) {
      GUESTMM_CHECK(ram->Translate({Gpa(kMiB), kMiB}).has_value());
      ++looks;
    }
  });
  for (int i = 0; i < 1000 || looks < 1000; ++i) {
    EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}).code(),
              absl::StatusCode::kFailedPrecondition);
  }
  stop = true;
  reader.join();
}

}  // namespace
}  // namespace guestmm::hotplug_threads_test
