#include "guestmm/vmm/balloon_factory.h"

#include <optional>

#include "guestmm/base/check.h"
#include "guestmm/host/discard/counting_hypervisor.h"
#include "guestmm/host/discard/discarding_hypervisor.h"

namespace guestmm {

BalloonDiscards& BalloonDiscards::operator+=(const BalloonDiscards& other) {
  reports += other.reports;
  bytes += other.bytes;
  failures += other.failures;
  return *this;
}

// One session's device and hypervisor.
class BalloonFactory::Balloon {
 public:
  Balloon(BalloonFactory& factory, uint64_t session, const GuestRam& ram,
          Workqueue& workqueue)
      : factory_(factory),
        session_(session),
        hypervisor_(std::make_unique<DiscardingHypervisor>(ram)) {
    device_.emplace(ram, hypervisor_, workqueue, factory.options_);
  }
  ~Balloon() {
    // First, so that nothing is discarded after it was counted.
    device_.reset();
    factory_.Ended(session_);
  }
  Balloon(const Balloon&) = delete;
  Balloon& operator=(const Balloon&) = delete;

  VirtioDevice* device() { return &*device_; }
  BalloonDiscards discards() const {
    const DiscardCounters counters = hypervisor_.counters();
    return {.reports = hypervisor_.batches(),
            .bytes = counters.bytes,
            .failures = counters.failures};
  }

 private:
  BalloonFactory& factory_;
  const uint64_t session_;
  CountingHypervisor hypervisor_;
  std::optional<BalloonDevice> device_;
};

BalloonFactory::BalloonFactory(const BalloonDeviceOptions& options)
    : options_(options) {}

BalloonFactory::~BalloonFactory() = default;

VhostUserServer::MakeDevice BalloonFactory::maker() {
  return [this](uint64_t session, const GuestRam& ram, Workqueue& workqueue) {
    return Make(session, ram, workqueue);
  };
}

std::shared_ptr<VirtioDevice> BalloonFactory::Make(uint64_t session,
                                                   const GuestRam& ram,
                                                   Workqueue& workqueue) {
  const auto balloon =
      std::make_shared<Balloon>(*this, session, ram, workqueue);
  {
    LockHolder hold(mutex_);
    Session& made = sessions_[session];
    GUESTMM_CHECK(made.balloon == nullptr)
        << "session " << session << " has a balloon";
    forgotten_ += made.discards;
    made = {.balloon = balloon.get(), .discards = {}};
  }
  return {balloon, balloon->device()};
}

BalloonDiscards BalloonFactory::DiscardsOf(const Session& session) {
  return session.balloon != nullptr ? session.balloon->discards()
                                    : session.discards;
}

BalloonDiscards BalloonFactory::discards(uint64_t session) const {
  LockHolder hold(mutex_);
  const auto found = sessions_.find(session);
  return found != sessions_.end() ? DiscardsOf(found->second)
                                  : BalloonDiscards{};
}

BalloonDiscards BalloonFactory::discards() const {
  LockHolder hold(mutex_);
  BalloonDiscards sum = forgotten_;
  for (const auto& [id, session] : sessions_) sum += DiscardsOf(session);
  return sum;
}

void BalloonFactory::Forget(uint64_t session) {
  LockHolder hold(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  GUESTMM_CHECK(found->second.balloon == nullptr)
      << "session " << session << " has not ended";
  forgotten_ += found->second.discards;
  sessions_.erase(found);
}

void BalloonFactory::Ended(uint64_t session) {
  LockHolder hold(mutex_);
  Session& ended = sessions_.at(session);
  ended.discards = DiscardsOf(ended);
  ended.balloon = nullptr;
}

}  // namespace guestmm
