#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/experiment/replay/listed_blocks.h"
#include "src/experiment/replay/pcp_reconstruction.h"
#include "src/experiment/replay/trace_placement.h"

namespace guestmm {

// Allocates exactly the trace's pages (ReplayPlacement::kRecorded). The zones
// are the allocator's. Its per-CPU lists are bypassed: each vCPU's lists are
// reconstructed (PcpReconstruction), and a listed block counts as allocated in
// its zone.
//
// Refills and drains of the lists are inferred, by the kernel's rules, until
// the trace shows the first one (TraceEvent::is_request), and from then on only
// followed. The kernel's bulk allocations (vmalloc) have no event: they show
// when they are freed.
class RecordedPlacement final : public TracePlacement {
 public:
  // `listed`: as ListsAtStart.
  RecordedPlacement(const Recording& recording, KernelVersion kernel,
                    std::span<const TraceEvent> listed,
                    PageAllocator& allocator, ReplayHost& host,
                    ReplayCounters& counters);

  void RefreshPerCpuLists() override;

 private:
  void Allocate(const TraceEvent& event) override;
  void Free(const TraceEvent& event) override;
  void Evict(PfnRange pages) override;
  void OnResized() override;
  void LeaveZone(const TraceEvent& event) override;
  void EnterZone(const TraceEvent& event) override;

  // Allocates the block if it is listed, or free in its zone.
  bool AllocateShown(Zone& zone, const TraceEvent& event, MigrateType type);
  bool AllocateInferred(Zone& zone, const TraceEvent& event, MigrateType type);
  // Lists a block whose first event this is, and which was listed before.
  void ListAtStart(const TraceEvent& event);

  // Refills the list `index` with the event's block, which is free in the zone,
  // and with the blocks that the zone would hand out after it.
  void AllocateByRefill(Zone& zone, const TraceEvent& event, MigrateType type,
                        PcpReconstruction& lists);
  // True if the zone would hand out this free block before all others for a
  // request of `order` and `type`.
  static bool IsNextToHandOut(const Zone& zone, const Zone::Block& block,
                              Order order, MigrateType type)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  // Allocates a block whatever the state of its pages, except isolated ones:
  // those stay isolated, so that their report can end.
  void ForceAllocate(Zone& zone, Pfn pfn, Order order, MigrateType type);
  // Drains listed blocks that overlap this one: it is allocated elsewhere or in
  // other bounds, so they had been drained before. True if there were any.
  bool DrainOverlapping(Zone& zone, Pfn pfn, Order order);
  // Drains the listed block: while this is inferring, with all older ones of
  // its list. Appends to drained_.
  void Drain(ListedBlocks::Index block);
  // Frees the blocks of drained_, which are not listed any more, to the zone.
  void FreeDrained(Zone& zone);
  // Sets the pageblock's type to that of the last request that got a page of
  // it, since a list holds pages of pageblocks of one type.
  void LearnType(Zone& zone, Pfn pfn, MigrateType type);

  // Lets the zones note if a request finds them short of memory: that of its
  // block, and those that it would have preferred.
  void NoteShortage(const Zone& of_block, Order order);

  // The index in per_cpu_ of the event's vCPU and zone.
  size_t IndexOf(const TraceEvent& event, const Zone& zone) const;
  PcpReconstruction& ListsOf(ListedBlocks::Index block);
  // Calls visit(head, order) for each block that overlaps this one.
  template <typename Visit>
  void ForEachBlock(Pfn pfn, Order order, const Visit& visit) const;
  bool OverlapsListed(Pfn pfn, Order order) const;
  // REQUIRES: a block begins at `pfn`.
  bool IsWhole(Pfn pfn, Order order) const;
  bool OverlapsIsolated(Pfn pfn, Order order) const;
  // Zone::Reshape to the event's block, counted as a split free.
  bool Reshape(Zone& zone, const TraceEvent& event);
  // Removes a block from its list, as an allocated one.
  void Unlist(ListedBlocks::Index block);

  const KernelVersion kernel_;
  bool is_inferring_ = true;
  // The identified blocks in lists. Each is an allocated block of the zone, so
  // whatever frees, splits or joins one takes it out of here. If an assumed one
  // turns out to have been reported all along, it is marked so again.
  ListedBlocks listed_;
  // What is listed while this is not inferring.
  const ListedBlocks::Index shown_;
  // By vCPU, then by zone. Of no meaning unless is_inferring_.
  std::vector<PcpReconstruction> per_cpu_;
  // Scratch.
  PcpReconstruction::Blocks drained_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_RECORDED_PLACEMENT_H_
