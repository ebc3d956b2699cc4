// The slow path of an allocation: reclaim, drain, and wait.

#include <algorithm>
#include <functional>
#include <vector>

#include "guestmm/buddy/page_allocator.h"

namespace guestmm {
namespace {

// For TakeReturned: the caller must wait, but not inside the allocator.
constexpr Pfn kMustWait{kNoPfn.value() - 1};

}  // namespace

// __alloc_pages_slowpath, without kswapd, compaction and the OOM killer.
Pfn PageAllocator::AllocateSlowPath(const Request& request) {
  if (request.zones.empty()) {
    const int node =
        request.gfp.node < 0 ? NodeOf(request.cpu) : request.gfp.node;
    events(zone(node, request.gfp.highest))
        .alloc_failed.fetch_add(1, std::memory_order_relaxed);
    return kNoPfn;
  }
  Pfn pfn = TryZones(request, Keep::kMin, Mixing::kAllow);
  if (pfn == kNoPfn && request.gfp.reserves == Reserves::kAll) {
    pfn = TryZones(request, Keep::kNothing, Mixing::kAllow);
  }
  if (pfn == kNoPfn && request.gfp.may_reclaim) {
    events(*request.zones.front())
        .allocstall.fetch_add(1, std::memory_order_relaxed);
    pfn = TakeReturned(request);
    if (pfn == kMustWait) return kNoPfn;
  } else if (pfn == kNoPfn) {
    pfn = TakeDrained(request, Keep::kMinForSure);
  }
  if (pfn == kNoPfn && request.gfp.reserves == Reserves::kAll) {
    pfn = TakeDrained(request, Keep::kNothing);
  }
  if (pfn != kNoPfn) return pfn;
  RareEvents& count = events(*request.zones.front());
  count.alloc_failed.fetch_add(1, std::memory_order_relaxed);
  const PageCount isolated = IsolatedPages(request);
  if (isolated > PageCount(0)) {
    count.alloc_failed_isolated.fetch_add(1, std::memory_order_relaxed);
    count.alloc_failed_isolated_pages.fetch_add(isolated.value(),
                                                std::memory_order_relaxed);
  }
  return kNoPfn;
}

Pfn PageAllocator::TakeReclaimed(const Request& request) {
  // Above order 3, reclaim may make progress for ever without freeing a block
  // of the order (MAX_RECLAIM_RETRIES, PAGE_ALLOC_COSTLY_ORDER).
  constexpr int kMostRounds = 16;
  constexpr Order kCostlyOrder(3);
  const int step = request.order > kCostlyOrder ? 1 : 0;
  for (int round = 0; round < kMostRounds; round += step) {
    const PageCount progress = Reclaim(request);
    const Pfn pfn = TakeDrained(request, Keep::kMinForSure);
    if (pfn != kNoPfn || progress == PageCount(0)) return pfn;
  }
  return kNoPfn;
}

PageAllocator::OnItsWay PageAllocator::FindOnItsWay(const Request& request) {
  OnItsWay found;
  if (options_.wait_for_isolated != nullptr) {
    found.isolated = IsolatedPages(request);
    if (found.isolated > PageCount(0)) found.queue = options_.wait_for_isolated;
  }
  LockHolder hold(reclaim_lock_);
  found.returns = past_returns_;
  for (const Reclaimer* const reclaimer : reclaimers_) {
    const Reclaimer::InFlight in_flight = reclaimer->in_flight();
    found.returns += in_flight.returns;
    if (in_flight.queue != nullptr) found.queue = in_flight.queue;
  }
  return found;
}

Pfn PageAllocator::TakeReturned(const Request& request) {
  bool waited = false;
  while (true) {
    // Read before the attempt, which then sees all that has returned by now.
    const OnItsWay before = FindOnItsWay(request);
    const Pfn pfn = TakeReclaimed(request);
    if (pfn != kNoPfn) return pfn;
    const OnItsWay now = FindOnItsWay(request);
    if (now.queue == nullptr) {
      if (now == before) return kNoPfn;
      continue;
    }
    if (!waited && now.isolated > PageCount(0)) {
      waited = true;
      events(*request.zones.front())
          .alloc_waited_isolated.fetch_add(1, std::memory_order_relaxed);
    }
    if (!now.queue->MayWait()) return kMustWait;
    if (!now.queue->WaitUntil([&] { return MayRetry(request, before); })) {
      return kNoPfn;
    }
  }
}

// The count of isolated pages alone is not enough: the next batch may be as
// large as the one that returned.
bool PageAllocator::MayRetry(const Request& request, const OnItsWay& before) {
  const OnItsWay now = FindOnItsWay(request);
  return now.isolated != before.isolated || now.returns != before.returns ||
         std::any_of(request.zones.begin(), request.zones.end(),
                     [&](const Zone* zone) {
                       return MayTake(*zone, request, Keep::kMin);
                     });
}

std::function<bool()> PageAllocator::WhenToRetry(int cpu, Order order,
                                                 Gfp gfp) {
  if (!gfp.may_reclaim) return nullptr;
  const OnItsWay before = FindOnItsWay(MakeRequest(cpu, order, gfp));
  if (before.queue == nullptr || before.queue->MayWait()) return nullptr;
  // The zonelists may be rebuilt meanwhile, so the request is made anew.
  return [this, cpu, order, gfp, before] {
    return MayRetry(MakeRequest(cpu, order, gfp), before);
  };
}

// Holds the locks of all per-CPU lists, so that no vCPU refills its lists with
// the drained pages before they are tried. The analysis cannot follow locks
// taken in a loop.
Pfn PageAllocator::TakeDrained(const Request& request,
                               Keep keep) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().LockAsVisitor();
  std::vector<FreeBlockObserver*> to_wake;
  for (const auto& per_cpu : per_cpu_) {
    if (FreeBlockObserver* observer = per_cpu->DrainHeld()) {
      to_wake.push_back(observer);
    }
  }
  const Pfn pfn = TryZones(request, keep, Mixing::kAllow, PerCpuLocks::kHeld);
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().Unlock();
  for (FreeBlockObserver* const observer : to_wake) observer->Wake();
  return pfn;
}

PageCount PageAllocator::IsolatedPages(const Request& request) {
  PageCount isolated;
  for (const Zone* zone : request.zones) isolated += zone->isolated_pages();
  return isolated;
}

PageCount PageAllocator::Reclaim(const Request& request) {
  constexpr PageCount kSwapClusterMax(32);
  const PageCount wanted = std::max(kSwapClusterMax, request.order.pages());
  PageCount freed;
  {
    LockHolder hold(reclaim_lock_);
    for (Zone* const zone : request.zones) zone->SetReclaimActive(true);
    for (Reclaimer* const reclaimer : reclaimers_) {
      if (freed >= wanted) break;
      freed += reclaimer->Reclaim(request.cpu, wanted - freed);
    }
    for (Zone* const zone : request.zones) zone->SetReclaimActive(false);
  }
  events(*request.zones.front())
      .pgsteal_direct.fetch_add(freed.value(), std::memory_order_relaxed);
  return freed;
}

void PageAllocator::AddReclaimer(Reclaimer& reclaimer) {
  LockHolder hold(reclaim_lock_);
  reclaimers_.push_back(&reclaimer);
}

void PageAllocator::RemoveReclaimer(Reclaimer& reclaimer) {
  LockHolder hold(reclaim_lock_);
  if (std::erase(reclaimers_, &reclaimer) == 0) return;
  // What it had in flight has come back, or comes back without it.
  past_returns_ += reclaimer.in_flight().returns + 1;
}

}  // namespace guestmm
