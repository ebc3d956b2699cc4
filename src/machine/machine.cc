#include "guestmm/machine/machine.h"

#include <utility>

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

}  // namespace guestmm
