// The virtqueue's accesses under the C++ memory model, checked by Relacy, which
// enumerates executions: interleavings, and the values that a load may return.
//
// A model of DriverQueue and DeviceQueue, not the classes: each access here
// corresponds to one there and has its memory order. Each property holds with
// those orders, and with one order weakened Relacy must find an execution that
// violates it, which shows that the model can.

// Included before Relacy, which defines macros for `new` and the memory orders.
#include <cstdint>
#include <iostream>

#include "guestmm/virtio/wire/virtqueue.h"
// Must come last.
#include <relacy/relacy.hpp>

namespace {

using rl::mo_acquire;
using rl::mo_relaxed;
using rl::mo_release;
using rl::mo_seq_cst;

// The memory orders of an index, stored by the half that advances it and loaded
// by the other, and of the notification request (flags or event).
struct Ours {
  static constexpr auto kStoreIndex = mo_seq_cst;
  static constexpr auto kLoadIndex = mo_seq_cst;
  static constexpr auto kStoreWish = mo_seq_cst;
  static constexpr auto kLoadWish = mo_seq_cst;
};
// Enough for publishing, but not for notifications.
struct AcquireRelease {
  static constexpr auto kStoreIndex = mo_release;
  static constexpr auto kLoadIndex = mo_acquire;
  static constexpr auto kStoreWish = mo_release;
  static constexpr auto kLoadWish = mo_acquire;
};
struct RelaxedStore : AcquireRelease {
  static constexpr auto kStoreIndex = mo_relaxed;
};
struct RelaxedLoad : AcquireRelease {
  static constexpr auto kLoadIndex = mo_relaxed;
};
// Each of the four orders is needed.
struct WeakStoreIndex : Ours {
  static constexpr auto kStoreIndex = mo_release;
};
struct WeakLoadIndex : Ours {
  static constexpr auto kLoadIndex = mo_acquire;
};
struct WeakStoreWish : Ours {
  static constexpr auto kStoreWish = mo_release;
};
struct WeakLoadWish : Ours {
  static constexpr auto kLoadWish = mo_acquire;
};

// Two chains pass through a ring of size 1: Add, Pop, Push, GetUsed. The
// descriptors and the buffer's contents, plain memory, are visible to the other
// half, in both directions; and the ring's only descriptor, table entry and
// buffer are not overwritten before the other half is done with them.
template <typename Order>
struct Publish : rl::test_suite<Publish<Order>, 2> {
  static constexpr unsigned kChains = 2;

  rl::atomic<unsigned> descriptor, table_entry, available_ring, available_idx;
  rl::atomic<unsigned> used_element, used_idx;
  rl::var<unsigned> buffer;

  void before() {
    descriptor($).store(0, mo_relaxed);
    table_entry($).store(0, mo_relaxed);
    available_ring($).store(0, mo_relaxed);
    available_idx($).store(0, mo_relaxed);
    used_element($).store(0, mo_relaxed);
    used_idx($).store(0, mo_relaxed);
    buffer($) = 0;
  }

  void thread(unsigned id) {
    for (unsigned i = 1; i <= kChains; ++i) {
      if (id == 0) {
        Driver(i);
      } else {
        Device(i);
      }
    }
  }

  void Driver(unsigned i) {
    buffer($) = 10 * i;
    table_entry($).store(20 * i, mo_relaxed);
    descriptor($).store(30 * i, mo_relaxed);
    available_ring($).store(40 * i, mo_relaxed);
    available_idx($).store(i, Order::kStoreIndex);
    while (used_idx($).load(Order::kLoadIndex) != i) rl::yield(1, $);
    RL_ASSERT(used_element($).load(mo_relaxed) == 50 * i);
    RL_ASSERT(unsigned(buffer($)) == 60 * i);
  }

  void Device(unsigned i) {
    while (available_idx($).load(Order::kLoadIndex) != i) rl::yield(1, $);
    RL_ASSERT(available_ring($).load(mo_relaxed) == 40 * i);
    RL_ASSERT(descriptor($).load(mo_relaxed) == 30 * i);
    RL_ASSERT(table_entry($).load(mo_relaxed) == 20 * i);
    RL_ASSERT(unsigned(buffer($)) == 10 * i);
    buffer($) = 60 * i;
    used_element($).store(50 * i, mo_relaxed);
    used_idx($).store(i, Order::kStoreIndex);
  }
};

// Thread 0 advances an index (Add; Push) and checks whether to notify
// (NeedsKick; NeedsNotification). Thread 1 enables notifications and checks the
// index again (EnableNotifications). At least one of the checks must succeed.
template <typename Order>
struct Flags : rl::test_suite<Flags<Order>, 2> {
  rl::atomic<unsigned> idx, no_notify;
  rl::var<bool> notifies, saw;

  void before() {
    idx($).store(0, mo_relaxed);
    no_notify($).store(1, mo_relaxed);
  }
  void thread(unsigned id) {
    if (id == 0) {
      idx($).store(1, Order::kStoreIndex);
      notifies($) = no_notify($).load(Order::kLoadWish) == 0;
    } else {
      no_notify($).store(0, Order::kStoreWish);
      saw($) = idx($).load(Order::kLoadIndex) != 0;
    }
  }
  void after() { RL_ASSERT(bool(notifies($)) || bool(saw($))); }
};

// The same with the event index and notifications always enabled: thread 1
// takes the entry at 65535, advances the event to the next one, 0, checks
// again, finds none, and sleeps (GetUsed; Pop). Thread 0 adds that entry.
template <typename Order>
struct Event : rl::test_suite<Event<Order>, 2> {
  rl::atomic<unsigned> idx, event;
  rl::var<bool> notifies, saw;

  void before() {
    idx($).store(0, mo_relaxed);
    event($).store(0xffff, mo_relaxed);
  }
  void thread(unsigned id) {
    if (id == 0) {
      idx($).store(1, Order::kStoreIndex);
      const auto wish =
          static_cast<std::uint16_t>(event($).load(Order::kLoadWish));
      notifies($) = guestmm::NeedsEvent(wish, /*idx=*/1, /*moved=*/1);
    } else {
      event($).store(0, Order::kStoreWish);
      saw($) = idx($).load(Order::kLoadIndex) != 0;
    }
  }
  void after() { RL_ASSERT(bool(notifies($)) || bool(saw($))); }
};

int failures = 0;

// The search depth: all executions, or, if those are too many, all executions
// with at most this many preemptions.
constexpr unsigned kAll = 0;

template <typename Test>
bool Holds(unsigned switches, std::ostream& output, rl::test_params& params) {
  params.search_type = switches == kAll ? rl::sched_full : rl::sched_bound;
  params.context_bound = switches;
  params.output_stream = &output;
  params.progress_stream = &output;
  return rl::simulate<Test>(params);
}

// Counts a failure unless `Test` holds in all executions, or, with `wanted`
// false, fails in one.
template <typename Test>
void Expect(bool wanted, unsigned switches, const char* name) {
  // Not a string stream: Relacy replaces operator delete.
  std::ostream nowhere(nullptr);
  rl::test_params params;
  const bool holds = Holds<Test>(switches, nowhere, params);
  std::cout << name << ": " << (holds ? "holds" : "does not hold") << " ("
            << params.stop_iteration << " executions)" << std::endl;
  if (holds == wanted) return;
  ++failures;
  std::cout << "  expected: " << (wanted ? "holds" : "does not hold")
            << std::endl;
  rl::test_params again;
  Holds<Test>(switches, std::cout, again);
}

}  // namespace

int main() {
  constexpr unsigned kSwitches = 4;
  Expect<Publish<Ours>>(true, kSwitches, "publish, as in the code");
  Expect<Publish<AcquireRelease>>(true, kSwitches,
                                  "publish, acquire and release");
  Expect<Publish<RelaxedStore>>(false, kSwitches,
                                "publish, relaxed store of the index");
  Expect<Publish<RelaxedLoad>>(false, kSwitches,
                               "publish, relaxed load of the index");
  Expect<Flags<Ours>>(true, kAll, "flags, as in the code");
  Expect<Flags<WeakStoreIndex>>(false, kAll, "flags, release of the index");
  Expect<Flags<WeakLoadIndex>>(false, kAll, "flags, acquire of the index");
  Expect<Flags<WeakStoreWish>>(false, kAll, "flags, release of the flag");
  Expect<Flags<WeakLoadWish>>(false, kAll, "flags, acquire of the flag");
  Expect<Event<Ours>>(true, kAll, "event, as in the code");
  Expect<Event<WeakStoreIndex>>(false, kAll, "event, release of the index");
  Expect<Event<WeakLoadIndex>>(false, kAll, "event, acquire of the index");
  Expect<Event<WeakStoreWish>>(false, kAll, "event, release of the event");
  Expect<Event<WeakLoadWish>>(false, kAll, "event, acquire of the event");
  return failures == 0 ? 0 : 1;
}
