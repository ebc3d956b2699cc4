#ifndef GUESTMM_TESTS_TESTING_BUDDY_RUN_H_
#define GUESTMM_TESTS_TESTING_BUDDY_RUN_H_

// Runs a Program on the allocator and on its model, side by side.
//
//   EXPECT_EQ(RunBuddyProgram(kBareWorld, {Alloc{0, 3}, Free{0, 0}}), "");

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/testing/allocator_model.h"
#include "tests/testing/buddy_program.h"

namespace guestmm::buddy {

// One run: applies operations to both and describes differences.
class BuddyRun {
 public:
  explicit BuddyRun(const BuddyWorld& world);
  // Returns all isolated blocks.
  ~BuddyRun();
  BuddyRun(const BuddyRun&) = delete;
  BuddyRun& operator=(const BuddyRun&) = delete;

  // Applies one operation. Returns the difference of its results, or "".
  std::string Apply(const Operation& operation);
  // Compares the allocator's state and the observer's notifications since the
  // last operation with the model's, and checks the invariants. Returns the
  // first difference, or "".
  std::string Compare() const;

  const AllocatorModel& model() const { return model_; }
  // Every operation that has a distinct effect in the current state.
  std::vector<Operation> Choices() const;

 private:
  class Recorder final : public FreeBlockObserver {
   public:
    bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override;
    void OnBlocksTaken(Zone& zone, std::span<const PfnRange> runs,
                       Order order) override;
    void OnMemoryOnline(Zone& zone, PfnRange range) override;
    void OnMemoryOffline(Zone& zone, PfnRange range) override;
    void Wake() override;
    AllocatorModel::Notifications notifications;
  };

  std::string Do(const Alloc& op);
  std::string Do(const Free& op);
  std::string Do(const Drain& op);
  std::string Do(const Refresh& op);
  std::string Do(const Isolate& op);
  std::string Do(const Return& op);
  std::string Do(const Mark& op);
  std::string Do(const Rotate& op);
  std::string Do(const Pin& op);
  std::string Do(const Unpin& op);
  std::string Do(const IsolateRange& op);
  std::string Do(const RestoreRange& op);
  std::string Do(const TakeOffline& op);
  std::string Do(const BringOnline& op);
  std::string ComparePageblocks() const;
  std::string CompareCounts() const;
  std::string CompareTold() const;
  int Cpu(int cpu) const { return cpu % allocator_->cpus(); }
  // The free blocks, in the order in which Isolate counts them.
  std::vector<uint64_t> FreeBlocks() const;
  // The whole sections of the world's address space.
  std::vector<PfnRange> Sections() const;
  bool IsIsolated(PfnRange section) const;

  struct IsolatedRange {
    PfnRange range;
    std::vector<MigrateType> types;  // before isolation
  };

  const BuddyWorld& world_;
  Recorder recorder_;
  std::unique_ptr<PageAllocator> allocator_;
  MemoryHotplug hotplug_;
  AllocatorModel model_;
  std::vector<std::pair<Pfn, Order>> live_;
  std::vector<Pfn> pins_;
  std::vector<IsolatedBlock> isolated_;
  std::vector<IsolatedRange> isolated_ranges_;
};

// Runs `program`, comparing after every step. Returns "" if all is well; else
// the difference, with a program to paste: the shortest found that still fails.
std::string RunBuddyProgram(const BuddyWorld& world, const Program& program);

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_RUN_H_
