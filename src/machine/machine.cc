#include "guestmm/machine/machine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"

namespace guestmm {

Machine::~Machine() {
  GUESTMM_CHECK(mechanism_ == nullptr)
      << "a machine was destroyed while its mechanism ran";
}

absl::Status Machine::StartMechanism(std::unique_ptr<Mechanism> mechanism) {
  GUESTMM_CHECK(mechanism_ == nullptr)
      << "the machine already runs mechanism " << mechanism_->text();
  EndBoot();
  absl::Status status = mechanism->Start(*this);
  if (status.ok()) mechanism_ = std::move(mechanism);
  return status;
}

void Machine::StopMechanism() {
  if (mechanism_ == nullptr) return;
  mechanism_->Stop();
  mechanism_.reset();
}

absl::Status Machine::CheckGuest(const FrameAllocator& allocator,
                                 PageCount in_flight) const {
  absl::Status status = allocator.CheckInvariants();
  if (mechanism_ != nullptr) status.Update(mechanism_->CheckInvariants());
  const PageCount isolated = allocator.Counts().isolated;
  if (isolated != in_flight) {
    status.Update(absl::InternalError(
        absl::StrCat("S2: ", isolated.value(), " pages are isolated, ",
                     in_flight.value(), " in flight")));
  }
  return status;
}

}  // namespace guestmm
