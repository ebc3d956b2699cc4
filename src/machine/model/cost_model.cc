#include "guestmm/machine/model/cost_model.h"

#include <string>

namespace guestmm {
namespace {

Field<CostModel> Cost(std::string name, uint64_t CostModel::*member,
                      std::string text) {
  return {std::move(name), member, FieldKind::Count(0, kMaxCost),
          std::move(text)};
}

}  // namespace

const Fields<CostModel>& CostFields() {
  static const Fields<CostModel> fields = {
      Cost("allocate", &CostModel::allocate, "allocate from a per-CPU list"),
      Cost("free", &CostModel::free, "free to a per-CPU list"),
      Cost("zone_visit", &CostModel::zone_visit, "take a zone's lock, vCPU"),
      Cost("zone_block", &CostModel::zone_block,
           "move a block from or to a free list"),
      Cost("guest_fault", &CostModel::guest_fault, "page fault in the guest"),
      Cost("guest_zero_page", &CostModel::guest_zero_page,
           "guest clears 4 KiB"),
      Cost("read_page", &CostModel::read_page, "guest reads 4 KiB"),
      Cost("exit", &CostModel::exit, "exit and entry of a vCPU"),
      Cost("host_fault_4k", &CostModel::host_fault_4k, "host maps 4 KiB"),
      Cost("host_zero_4k", &CostModel::host_zero_4k, "host clears 4 KiB"),
      Cost("host_fault_2m", &CostModel::host_fault_2m, "host maps 2 MiB"),
      Cost("host_zero_2m", &CostModel::host_zero_2m, "host clears 2 MiB"),
      Cost("discard_call", &CostModel::discard_call,
           "madvise, nothing resident"),
      Cost("discard_4k", &CostModel::discard_4k,
           "madvise, each resident 4 KiB"),
      Cost("discard_2m", &CostModel::discard_2m,
           "madvise, each resident huge page"),
      Cost("split_2m", &CostModel::split_2m,
           "madvise, each huge page that it splits"),
      Cost("discard_interruption", &CostModel::discard_interruption,
           "madvise, each running vCPU"),
      Cost("hook_freed", &CostModel::hook_freed, "BlockFreed"),
      Cost("hook_taken", &CostModel::hook_taken, "BlocksTaken, one block"),
      Cost("hook_taken_batch", &CostModel::hook_taken_batch,
           "BlocksTaken, a per-CPU batch"),
      Cost("reporter_hold", &CostModel::reporter_hold,
           "take a zone's lock, reporter"),
      Cost("reporter_look", &CostModel::reporter_look, "look up a free block"),
      Cost("reporter_isolate", &CostModel::reporter_isolate, "isolate a block"),
      Cost("reporter_return", &CostModel::reporter_return, "return a block"),
      Cost("report", &CostModel::report, "report through the ring"),
      Cost("kick", &CostModel::kick, "kick the device"),
      Cost("interrupt", &CostModel::interrupt, "interrupt the guest"),
  };
  return fields;
}

}  // namespace guestmm
