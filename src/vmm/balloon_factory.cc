#include "guestmm/vmm/balloon_factory.h"

#include "guestmm/base/check.h"
#include "guestmm/host/discard/counting_hypervisor.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/vmm/balloon_counters.h"

namespace guestmm {

BalloonDiscards& BalloonDiscards::operator+=(const BalloonDiscards& other) {
  reports += other.reports;
  bytes += other.bytes;
  failures += other.failures;
  device += other.device;
  return *this;
}

// One session's device and hypervisor.
class BalloonFactory::Balloon {
 public:
  Balloon(BalloonFactory& factory, uint64_t session, const GuestRam& ram,
          Workqueue& workqueue, const BalloonDeviceOptions& options)
      : factory_(factory),
        session_(session),
        hypervisor_(std::make_unique<DiscardingHypervisor>(ram)),
        device_(ram, hypervisor_, workqueue, options) {}
  ~Balloon() {
    factory_.Ending(session_);
    // First, so that nothing is discarded after it was counted.
    device_.SetStatus(0);
    factory_.Ended(session_);
  }
  Balloon(const Balloon&) = delete;
  Balloon& operator=(const Balloon&) = delete;

  BalloonDevice& device() { return device_; }
  BalloonDiscards discards() const {
    const DiscardCounters counters = hypervisor_.counters();
    return {.reports = hypervisor_.batches(),
            .bytes = counters.bytes,
            .failures = counters.failures,
            .device = device_.counters()};
  }

 private:
  BalloonFactory& factory_;
  const uint64_t session_;
  CountingHypervisor hypervisor_;
  BalloonDevice device_;
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
  BalloonDeviceOptions options;
  {
    LockHolder hold(mutex_);
    options = options_;
  }
  const auto balloon =
      std::make_shared<Balloon>(*this, session, ram, workqueue, options);
  {
    LockHolder hold(mutex_);
    Session& made = sessions_[session];
    GUESTMM_CHECK(made.balloon == nullptr)
        << "session " << session << " has a balloon";
    forgotten_ += made.discards;
    made = {.balloon = balloon.get(), .is_usable = true, .discards = {}};
    // Again, since they may have been set since `options` was copied.
    balloon->device().SetMaxDiscardRate(options_.max_discard_rate);
    balloon->device().HoldDiscards(holds_discards_);
  }
  return {balloon, &balloon->device()};
}

bool BalloonFactory::With(uint64_t session,
                          absl::FunctionRef<void(BalloonDevice&)> use) {
  LockHolder hold(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || !found->second.is_usable) return false;
  use(found->second.balloon->device());
  return true;
}

std::vector<uint64_t> BalloonFactory::sessions() const {
  LockHolder hold(mutex_);
  std::vector<uint64_t> ids;
  for (const auto& [id, session] : sessions_) {
    if (session.is_usable) ids.push_back(id);
  }
  return ids;
}

void BalloonFactory::HoldDiscards(bool hold) {
  LockHolder lock(mutex_);
  holds_discards_ = hold;
}

void BalloonFactory::SetMaxDiscardRate(uint64_t bytes_per_second) {
  LockHolder hold(mutex_);
  options_.max_discard_rate = bytes_per_second;
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

void BalloonFactory::Ending(uint64_t session) {
  LockHolder hold(mutex_);
  sessions_.at(session).is_usable = false;
}

void BalloonFactory::Ended(uint64_t session) {
  LockHolder hold(mutex_);
  Session& ended = sessions_.at(session);
  ended.discards = DiscardsOf(ended);
  ended.balloon = nullptr;
}

}  // namespace guestmm
