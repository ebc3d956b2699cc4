#include "guestmm/machine/model/calibrate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/zone_lock_guard.h"
#include "src/machine/model/repetitions.h"

namespace guestmm {
namespace {

constexpr int kRepetitions = 9;
constexpr uint64_t kRamBytes = 128 * kMiB;
constexpr uint64_t kHugeBytes = kPageblockOrder.bytes();
constexpr uint64_t kPagesPerHuge = kHugeBytes / kPageSize;
// Managed by an allocator without RAM.
constexpr PageCount kMetadataPages(kGiB / kPageSize);

// Takes the results of reads, so that the compiler keeps them.
volatile uint64_t sink = 0;

// Notifies the adaptive policy as a reporter would. Of all policies it does the
// most in the hook.
class PolicyObserver final : public FreeBlockObserver {
 public:
  explicit PolicyObserver(const PageAllocator& allocator)
      : zones_(ReportableZones(allocator.zones())), policy_({}) {
    GUESTMM_CHECK(
        policy_.Enable({.zones = std::span(zones_), .clock = clock_}).ok());
  }
  ~PolicyObserver() override { policy_.Disable(); }

  bool OnBlockFreed(Zone& zone, Pfn pfn,
                    Order order) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    policy_.BlockFreed(Reportable(zone), pfn, order);
    return false;
  }
  void OnBlocksTaken(Zone& zone, std::span<const PfnRange> runs,
                     Order order) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    policy_.BlocksTaken(Reportable(zone), runs, order);
    ++taken_calls_;
  }
  void OnMemoryOnline(Zone& zone, PfnRange range) override {
    policy_.MemoryOnline(Reportable(zone), range);
  }
  void Wake() override {}

  uint64_t taken_calls() const { return taken_calls_; }

 private:
  ReportableZone& Reportable(const Zone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }

  const MonotonicClock clock_;
  std::vector<ReportableZone> zones_;
  AdaptivePolicy policy_;
  uint64_t taken_calls_ = 0;
};

class Calibrator {
 public:
  explicit Calibrator(const std::function<void(std::string_view)>& progress)
      : progress_(progress) {}

  absl::StatusOr<Calibration> Run() {
    Tell("the allocator");
    if (absl::Status status = MeasureAllocator(); !status.ok()) return status;
    Tell("4 KiB pages");
    if (absl::Status status = MeasureSmallPages(); !status.ok()) return status;
    Tell("huge pages");
    if (absl::Status status = MeasureHugePages(); !status.ok()) return status;
    Calibration calibration{
        .costs = costs_, .sources = {}, .unsteady = unsteady_};
    for (const Field<CostModel>& field : CostFields()) {
      calibration.sources.push_back(
          {.name = field.name(), .measured = measured_.contains(field.name())});
    }
    return calibration;
  }

 private:
  void Tell(std::string_view what) {
    what_ = what;
    if (progress_) progress_(what);
  }

  void Note(const Repetitions& repetitions) {
    if (repetitions.IsSteady()) return;
    if (unsteady_.empty() || unsteady_.back().what != what_) {
      unsteady_.push_back({.what = what_});
    }
    UnsteadyMeasurement& part = unsteady_.back();
    part.spread = std::max(part.spread, repetitions.spread);
    part.outliers = std::max(part.outliers, repetitions.outliers);
  }

  // The median time of `run`, divided by the `count` operations that it does,
  // in ns. `before` runs before each repetition, untimed.
  template <typename Before, typename Run>
  double Time(uint64_t count, Before before, Run run) {
    std::vector<double> times(kRepetitions);
    for (double& time : times) {
      before();
      const Nanoseconds start = clock_.Now();
      run();
      time = static_cast<double>((clock_.Now() - start).count()) /
             static_cast<double>(count);
    }
    const Repetitions repetitions = Repetitions::Of(std::move(times));
    Note(repetitions);
    return repetitions.median;
  }
  template <typename Run>
  double Time(uint64_t count, Run run) {
    return Time(
        count, [] {}, run);
  }

  void Set(std::string_view name, double ns) {
    const Field<CostModel>* const field = CostFields().Find(name);
    GUESTMM_CHECK(field != nullptr) << "there is no cost " << name;
    field->Set(costs_, std::min(kMaxCost, static_cast<uint64_t>(std::llround(
                                              std::max(0.0, ns)))));
    measured_.insert(field->name());
  }

  absl::Status MeasureAllocator() {
    absl::StatusOr<std::unique_ptr<PageAllocator>> made =
        PageAllocator::Create({.memory = {{Pfn(0), Pfn(0) + kMetadataPages}}});
    if (!made.ok()) return made.status();
    PageAllocator& allocator = **made;
    MeasureLists(allocator);
    MeasureHook(allocator);
    MeasureReporter(allocator);
    return absl::OkStatus();
  }

  // Measures the per-CPU lists and the zones' free lists.
  void MeasureLists(PageAllocator& allocator) {
    // Less than a batch, so that no operation reaches the zone.
    constexpr int kListed = 16;
    constexpr int kRounds = 2000;
    std::array<Pfn, kListed> pages;
    const auto allocate = [&] {
      for (Pfn& page : pages) page = *allocator.Allocate(0, Order(0));
    };
    const auto release = [&] {
      for (const Pfn page : pages) allocator.Free(0, page, Order(0));
    };
    const double pair = Time(uint64_t{kListed} * kRounds, [&] {
      for (int i = 0; i < kRounds; ++i) {
        allocate();
        release();
      }
    });
    Set("allocate", pair / 2);
    Set("free", pair / 2);

    constexpr uint64_t kBulk = 65'536;
    std::vector<Pfn> bulk(kBulk);
    const auto allocate_bulk = [&](Order order, uint64_t count) {
      for (uint64_t i = 0; i < count; ++i) {
        bulk[i] = *allocator.Allocate(0, order);
      }
    };
    const auto free_bulk = [&](Order order, uint64_t count) {
      for (uint64_t i = 0; i < count; ++i) allocator.Free(0, bulk[i], order);
    };
    const double listed = Time(2 * kBulk, [&] {
      allocate_bulk(Order(0), kBulk);
      free_bulk(Order(0), kBulk);
    });
    // Not cached on per-CPU lists: each operation is one visit and one block.
    constexpr Order kUncached(3);
    constexpr uint64_t kUncachedCount = 16'384;
    const double uncached = Time(2 * kUncachedCount, [&] {
      allocate_bulk(kUncached, kUncachedCount);
      free_bulk(kUncached, kUncachedCount);
    });
    const double block = std::max(0.0, listed - pair / 2);
    Set("zone_block", block);
    Set("zone_visit", uncached - block);
  }

  // The time to allocate a block and to free one, in ns.
  struct PairTimes {
    double allocate;
    double free;
  };
  PairTimes TimePairs(PageAllocator& allocator, Order order, uint64_t count) {
    std::vector<Pfn> blocks(count);
    const auto allocate = [&] {
      for (Pfn& block : blocks) block = *allocator.Allocate(0, order);
    };
    const auto release = [&] {
      for (const Pfn block : blocks) allocator.Free(0, block, order);
    };
    const double free = Time(count, allocate, release);
    const double both = Time(count, [&] {
      allocate();
      release();
    });
    return {.allocate = both - free, .free = free};
  }

  // Measures the hook as the difference between runs with an observer and
  // without: for blocks of order 9, one at a time, and for pages, in batches.
  void MeasureHook(PageAllocator& allocator) {
    constexpr uint64_t kBlocks = 300;
    constexpr uint64_t kPages = 65'536;
    const PairTimes block_off = TimePairs(allocator, kPageblockOrder, kBlocks);
    const PairTimes page_off = TimePairs(allocator, Order(0), kPages);
    PolicyObserver observer(allocator);
    allocator.SetObserver(&observer, kPageblockOrder, TakenBlocks::kTell);
    const PairTimes block = TimePairs(allocator, kPageblockOrder, kBlocks);
    const uint64_t calls = observer.taken_calls();
    const PairTimes page = TimePairs(allocator, Order(0), kPages);
    const auto batches = static_cast<double>(observer.taken_calls() - calls);
    allocator.SetObserver(nullptr);
    Set("hook_freed", block.free - block_off.free);
    Set("hook_taken", block.allocate - block_off.allocate);
    // TimePairs allocates twice for each repetition.
    constexpr double kAllocated = 2.0 * kRepetitions * kPages;
    Set("hook_taken_batch",
        (page.allocate - page_off.allocate) * kAllocated / batches);
  }

  // Measures the reporter's operations under a zone's lock.
  void MeasureReporter(PageAllocator& allocator) {
    Zone& dma32 = allocator.zone(0, ZoneType::kDma32);
    std::vector<Pfn> blocks;
    {
      LockHolder hold(dma32.lock());
      for (int type = 0; type < kMigrateTypes; ++type) {
        dma32.ForEachFreeBlock(kMaxOrder, static_cast<MigrateType>(type),
                               [&](Pfn pfn) { blocks.push_back(pfn); });
      }
    }
    // Isolate leaves the min watermark free.
    blocks.resize(blocks.size() / 2);
    // Thread-safety analysis does not see into lambdas; all of these run under
    // this guard.
    ReportableZone zone(dma32);
    ZoneLockGuard hold(zone);
    const auto look = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      for (const Pfn pfn : blocks)
        sink = sink + (zone.FreeBlockAt(pfn) ? 1 : 0);
    };
    Set("reporter_look", Time(blocks.size(), look));
    std::vector<IsolatedBlock> isolated;
    isolated.reserve(blocks.size());
    const auto isolate = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      for (const Pfn pfn : blocks) isolated.push_back(*zone.Isolate(pfn));
    };
    const auto give_back = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      for (IsolatedBlock& block : isolated) zone.Return(std::move(block));
      isolated.clear();
    };
    const double both = Time(blocks.size(), [&] {
      isolate();
      give_back();
    });
    const double returned = Time(blocks.size(), isolate, give_back);
    Set("reporter_return", returned);
    Set("reporter_isolate", both - returned);
  }

  struct Ram {
    std::unique_ptr<GuestRam> ram;
    std::unique_ptr<DiscardingHypervisor> hypervisor;
    std::optional<Translation> all;

    std::span<std::byte> bytes() const { return all->bytes(); }
    // Discards everything, with one call for each 2 MiB.
    void DiscardEach() const { DiscardOfEach(kHugeBytes); }
    // Discards the first page of each 2 MiB.
    void DiscardFirstPages() const { DiscardOfEach(kPageSize); }
    // Discards the first `bytes` of each 2 MiB.
    void DiscardOfEach(uint64_t bytes) const {
      for (uint64_t at = 0; at < kRamBytes; at += kHugeBytes) {
        const GpaRange range = {.gpa = Gpa(at), .bytes = bytes};
        GUESTMM_CHECK(hypervisor->Discard(std::span(&range, 1)).ok());
      }
    }
    void Write(uint64_t stride) const {
      for (uint64_t at = 0; at < kRamBytes; at += stride) {
        bytes()[at] = std::byte{1};
      }
    }
    void Read() const {
      uint64_t sum = 0;
      for (uint64_t at = 0; at < kRamBytes; at += kPageSize) {
        sum += static_cast<uint64_t>(bytes()[at]);
      }
      sink = sum;
    }
  };

  static absl::StatusOr<Ram> MakeRam(HugePages huge_pages) {
    const GpaRange all = {.gpa = Gpa(0), .bytes = kRamBytes};
    absl::StatusOr<std::unique_ptr<GuestRam>> made =
        GuestRam::Create({.regions = {all}, .huge_pages = huge_pages});
    if (!made.ok()) return made.status();
    Ram ram;
    ram.ram = *std::move(made);
    ram.hypervisor = std::make_unique<DiscardingHypervisor>(*ram.ram);
    ram.all = ram.ram->Translate(all);
    // If this machine is itself a guest, its host must back the pages first.
    ram.Write(kPageSize);
    return ram;
  }

  absl::Status MeasureSmallPages() {
    const absl::StatusOr<Ram> made = MakeRam(HugePages::kForbid);
    if (!made.ok()) return made.status();
    const Ram& ram = *made;
    constexpr uint64_t kPages = kRamBytes / kPageSize;
    constexpr uint64_t kCalls = kRamBytes / kHugeBytes;
    const double zero = Time(kPages, [&] {
      for (uint64_t at = 0; at < kRamBytes; at += kPageSize) {
        std::memset(&ram.bytes()[at], 0, kPageSize);
      }
    });
    Set("guest_zero_page", zero);
    Set("host_zero_4k", zero);
    Set("read_page", Time(kPages, [&] { ram.Read(); }));
    const auto discard = [&] { ram.DiscardEach(); };
    const double call = Time(kCalls, discard, discard);
    Set("discard_call", call);
    const double full = Time(
        kCalls, [&] { ram.Write(kPageSize); }, discard);
    Set("discard_4k", (full - call) / kPagesPerHuge);
    Set("host_fault_4k",
        Time(kPages, discard, [&] { ram.Write(kPageSize); }) - zero);
    // A read of a page that is not resident maps the zero page; nothing is
    // allocated or cleared.
    Set("guest_fault", Time(kPages, discard, [&] { ram.Read(); }));
    small_fault_ = static_cast<double>(costs_.host_fault_4k) + zero;
    return absl::OkStatus();
  }

  absl::Status MeasureHugePages() {
    const absl::StatusOr<Ram> made = MakeRam(HugePages::kAdvise);
    if (!made.ok()) return made.status();
    const Ram& ram = *made;
    constexpr uint64_t kHuge = kRamBytes / kHugeBytes;
    const auto discard = [&] { ram.DiscardEach(); };
    const double fault = Time(kHuge, discard, [&] { ram.Write(kPageSize); });
    // Takes as long as faults on small pages: this machine has no huge pages.
    if (fault > small_fault_ * kPagesPerHuge / 2) return absl::OkStatus();
    const double zero = Time(kHuge, [&] {
      for (uint64_t at = 0; at < kRamBytes; at += kHugeBytes) {
        std::memset(&ram.bytes()[at], 0, kHugeBytes);
      }
    });
    Set("host_zero_2m", zero);
    Set("host_fault_2m", fault - zero);
    Set("discard_2m", Time(
                          kHuge, [&] { ram.Write(kPageSize); }, discard) -
                          static_cast<double>(costs_.discard_call));
    Set("split_2m", Time(
                        kHuge,
                        [&] {
                          discard();
                          ram.Write(kPageSize);
                        },
                        [&] { ram.DiscardFirstPages(); }) -
                        static_cast<double>(costs_.discard_call) -
                        static_cast<double>(costs_.discard_4k));
    return absl::OkStatus();
  }

  const std::function<void(std::string_view)>& progress_;
  const MonotonicClock clock_;
  CostModel costs_;
  std::set<std::string_view> measured_;
  // The measurement under way, and those so far that were unsteady.
  std::string what_;
  std::vector<UnsteadyMeasurement> unsteady_;
  // A host fault on a 4 KiB page, clearing included, in ns.
  double small_fault_ = 0;
};

}  // namespace

absl::StatusOr<Calibration> Calibrate(
    const std::function<void(std::string_view what)>& progress) {
  return Calibrator(progress).Run();
}

}  // namespace guestmm
