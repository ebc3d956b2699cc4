#ifndef GUESTMM_TESTS_MM_MIGRATE_MEMORY_HOTPLUG_TESTING_H_
#define GUESTMM_TESTS_MM_MIGRATE_MEMORY_HOTPLUG_TESTING_H_

// A few small memory blocks for hotplug, and an observer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm {

// Memory blocks of 16 pages: two blocks of the largest order, four pageblocks.
inline constexpr Order kSection(4);
inline constexpr uint64_t kSectionPages = 16;

inline PfnRange Section(uint64_t number, uint64_t count = 1) {
  const Pfn start(number * kSectionPages);
  return {start, start + PageCount(count * kSectionPages)};
}

inline PageAllocatorOptions HotplugOptions(MemoryMap memory) {
  return {.memory = std::move(memory),
          .hotplug_end = Pfn(8 * kSectionPages),
          .max_order = Order(3),
          .pageblock_order = Order(2),
          .section_order = kSection,
          .min_free_kbytes = 0,
          .per_cpu_limits = kNoCache};
}

// Memory blocks 0 and 1 of 8 at boot, as DMA.
struct HotplugWorld {
  explicit HotplugWorld(PageAllocatorOptions options = HotplugOptions(
                            {PagesFrom(Pfn(0), 2 * kSectionPages)}),
                        Workqueue* reporting = nullptr)
      : allocator(MakeAllocator(options)),
        hotplug(*allocator, nullptr, reporting) {}
  ~HotplugWorld() { ExpectInvariants(*allocator); }

  std::string StateOf(uint64_t section) const {
    return std::string(hotplug.StateOf(Section(section).start));
  }
  void Expect(const absl::Status& status, absl::StatusCode code,
              const std::string& text) const {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(text));
    ExpectInvariants(*allocator);
  }
  void AddOnline(PfnRange range, ZoneType type, int node = 0) {
    ASSERT_EQ(hotplug.Add(range, node), absl::OkStatus());
    ASSERT_EQ(hotplug.Online(range, type), absl::OkStatus());
  }

  std::unique_ptr<PageAllocator> allocator;
  MemoryHotplug hotplug;
};

// An observer that runs the test's callbacks and records its notifications.
class Listener final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override {
    heard.push_back(absl::StrFormat("free 0x%x of %d in %s", pfn.value(),
                                    order.value(),
                                    std::string(Name(zone.type()))));
    return true;
  }
  void OnMemoryOnline(Zone& zone, PfnRange range) override {
    Heard("online", zone, range);
  }
  void OnMemoryOffline(Zone& zone, PfnRange range) override {
    Heard("offline", zone, range);
    if (on_offline) on_offline();
  }
  void Wake() override {
    if (on_wake) on_wake();
  }

  std::vector<std::string> heard;
  std::function<void()> on_wake;
  std::function<void()> on_offline;

 private:
  void Heard(const char* what, const Zone& zone, PfnRange range) {
    heard.push_back(absl::StrFormat("%s [0x%x, 0x%x) in %s", what,
                                    range.start.value(), range.end.value(),
                                    std::string(Name(zone.type()))));
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_MM_MIGRATE_MEMORY_HOTPLUG_TESTING_H_
