#include "guestmm/machine/controller.h"

#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/machine.h"

namespace guestmm {
namespace {

GuestView View(Machine& machine) {
  const PageCounts counts = machine.allocator().Counts();
  return {.managed = counts.managed.bytes(),
          .free = counts.free.bytes(),
          .allocated = counts.allocated().bytes(),
          .resident = machine.ledger() == nullptr
                          ? 0
                          : machine.ledger()->resident_pages().bytes()};
}

}  // namespace

ControlLoop::ControlLoop(Machine& machine, Controller& controller,
                         std::function<HostView()> host, Workqueue& workqueue,
                         Nanoseconds period)
    : machine_(machine),
      controller_(controller),
      host_(std::move(host)),
      workqueue_(workqueue),
      period_(period),
      step_([this] { Step(); }, Work::Kind::kDeferrable) {
  GUESTMM_CHECK(period > Nanoseconds(0));
  workqueue_.Queue(step_);
}

ControlLoop::~ControlLoop() { workqueue_.CancelSync(step_); }

void ControlLoop::Step() {
  workqueue_.Queue(step_, period_);
  const std::optional<uint64_t> target =
      controller_.Target(workqueue_.Now(), View(machine_), host_());
  if (!target || target == target_) return;
  target_ = target;
  if (machine_.mechanism() != nullptr) machine_.mechanism()->SetTarget(*target);
}

}  // namespace guestmm
