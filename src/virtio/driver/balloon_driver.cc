#include "guestmm/virtio/driver/balloon_driver.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/virtio/driver/balloon_hinting.h"
#include "src/virtio/driver/balloon_inflation.h"
#include "src/virtio/driver/driver_virtqueue.h"
#include "src/virtio/driver/guest_statistics.h"

namespace guestmm {
namespace {

// What the ring returns with a client's report.
uintptr_t TokenOf(const ReportingDevice::Client* client) {
  return reinterpret_cast<uintptr_t>(client);
}

// The interval of polls for the end of a reset, as of Linux's PCI transport.
constexpr Nanoseconds kResetPoll = std::chrono::milliseconds(1);

// The longest wait for a reset that the caller cannot proceed without.
constexpr Nanoseconds kResetTimeout = std::chrono::minutes(10);

constexpr uint8_t kAgreed =
    kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;

// What a guest with `mode` accepts of `offered` (virtballoon_validate).
uint64_t Validate(uint64_t offered, PagePoisonMode mode) {
  if (mode == PagePoisonMode::kOff) return offered & ~kBalloonFPagePoison;
  if ((offered & kBalloonFPagePoison) == 0) {
    return offered & ~kBalloonFPageReporting;
  }
  return offered;
}

// Four bytes of PagePoison's pattern, which the device repeats.
uint32_t PoisonValue(PagePoisonMode mode) {
  if (mode != PagePoisonMode::kPoison) return 0;
  return 0x01010101 * std::to_integer<uint32_t>(PagePoison::kPoison);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BalloonDriver>> BalloonDriver::Create(
    VirtioDevice& device, const GuestRam& ram, PageAllocator& allocator,
    Workqueue& workqueue, const BalloonDriverOptions& options) {
  std::unique_ptr<BalloonDriver> driver(
      new BalloonDriver(device, ram, allocator, workqueue, options));
  absl::Status status = driver->StartOrFail();
  if (!status.ok()) return status;
  return driver;
}

BalloonDriver::BalloonDriver(VirtioDevice& device, const GuestRam& ram,
                             PageAllocator& allocator, Workqueue& workqueue,
                             const BalloonDriverOptions& options)
    : device_(device),
      ram_(ram),
      allocator_(allocator),
      workqueue_(workqueue),
      options_(options),
      used_work_([this] { HandleUsed(); }),
      config_work_([this] { HandleConfigChange(); }),
      retry_work_([this] { Step(); }, Work::Kind::kDeferrable),
      used_(workqueue, used_work_),
      config_(workqueue, config_work_) {}

BalloonDriver::~BalloonDriver() {
  if (!Remove()) {
    GUESTMM_CHECK(
        workqueue_.MayWait() &&
        workqueue_.WaitUntil([this] { return is_down(); }, kResetTimeout))
        << "balloon driver destroyed, but its device does not complete the "
           "reset";
  }
  workqueue_.CancelSync(used_work_);
  workqueue_.CancelSync(config_work_);
  workqueue_.CancelSync(retry_work_);
}

absl::Status BalloonDriver::StartOrFail() {
  {
    LockHolder hold(lock_);
    state_ = State::kStarting;
  }
  absl::Status status = Start();
  if (!status.ok()) {
    Reset(Reason::kBroken);
    device_.SetStatus(kVirtioFailed);
  }
  return status;
}

absl::Status BalloonDriver::Start() {
  absl::Status status = Negotiate();
  if (!status.ok()) return status;
  status = SetUpQueues();
  if (!status.ok()) return status;
  if ((features_ & kBalloonFPagePoison) != 0) {
    // §5.5.6.6.1: must be written before DRIVER_OK.
    const uint32_t poison = PoisonValue(options_.page_poison);
    status = device_.WriteConfig(offsetof(BalloonConfig, poison_val),
                                 std::as_bytes(std::span(&poison, 1)));
    if (!status.ok()) return status;
  }
  device_.SetConfigNotifier(config_);
  // §5.5.5: the device has a buffer for statistics when it starts, and is
  // notified of it.
  if (statistics_ != nullptr) statistics_->Offer();
  device_.SetStatus(kAgreed | kVirtioDriverOk);
  if (statistics_ != nullptr) statistics_->Kick();
  {
    LockHolder hold(lock_);
    state_ = State::kReady;
  }
  // Acts on the current target, and on changes made since DRIVER_OK.
  workqueue_.Queue(config_work_);
  workqueue_.Queue(used_work_);
  return absl::OkStatus();
}

absl::Status BalloonDriver::Negotiate() {
  if (device_.device_id() != kBalloonDeviceId) {
    return absl::FailedPreconditionError(
        absl::StrFormat("device id %d: must be %d, a memory balloon",
                        device_.device_id(), kBalloonDeviceId));
  }
  device_.SetStatus(0);
  if (device_.status() != 0) {
    return absl::FailedPreconditionError(
        "the balloon has not completed its last driver's reset");
  }
  device_.SetStatus(kVirtioAcknowledge);
  device_.SetStatus(kVirtioAcknowledge | kVirtioDriver);
  offered_ = device_.DeviceFeatures();
  if ((offered_ & kVirtioFVersion1) == 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "balloon features 0x%x: must include VERSION_1", offered_));
  }
  features_ = kVirtioFVersion1 |
              (offered_ & ToFeatureBits(options_.queue_features)) |
              Validate(offered_ & options_.features & kBalloonFeatures,
                       options_.page_poison);
  if (absl::Status status = device_.SetDriverFeatures(features_);
      !status.ok()) {
    return status;
  }
  device_.SetStatus(kAgreed);
  if ((device_.status() & kVirtioFeaturesOk) == 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the balloon offers features 0x%x and refuses a driver "
                        "that accepts 0x%x",
                        offered_, features_));
  }
  return absl::OkStatus();
}

absl::Status BalloonDriver::SetUpQueues() {
  const uint16_t size = options_.queue_size;
  auto inflate = SetUpQueue(
      BalloonQueue::kInflate,
      {.size = size, .buffer_bytes = BalloonInflation::kBufferBytes});
  if (!inflate.ok()) return inflate.status();
  auto deflate = SetUpQueue(
      BalloonQueue::kDeflate,
      {.size = size, .buffer_bytes = BalloonInflation::kBufferBytes});
  if (!deflate.ok()) return deflate.status();
  inflation_ = std::make_unique<BalloonInflation>(
      context(), features_, *std::move(inflate), *std::move(deflate));
  if ((features_ & kBalloonFStatsVq) != 0) {
    auto stats = SetUpQueue(
        BalloonQueue::kStats,
        {.size = size, .buffer_bytes = GuestStatistics::kBufferBytes});
    if (!stats.ok()) return stats.status();
    statistics_ =
        std::make_unique<GuestStatistics>(context(), *std::move(stats));
  }
  if ((features_ & kBalloonFFreePageHint) != 0) {
    auto hints = SetUpQueue(BalloonQueue::kFreePage,
                            {.size = size,
                             .least = BalloonHinting::kLeastDescriptors,
                             .buffer_bytes = BalloonHinting::kBufferBytes});
    if (!hints.ok()) return hints.status();
    hinting_ = std::make_unique<BalloonHinting>(context(), *std::move(hints));
  }
  if ((features_ & kBalloonFPageReporting) == 0) return absl::OkStatus();
  // At least the capacity that Create promised to the reporter. A table for
  // each report (R3).
  const size_t least = std::max<size_t>(max_report_entries(), 1);
  const auto tables = std::max<uint16_t>(options_.max_reports, 1);
  auto reporting = SetUpQueue(BalloonQueue::kReporting,
                              {.size = options_.reporting_queue_size,
                               .least = static_cast<uint16_t>(least),
                               .tables = tables});
  if (!reporting.ok()) return reporting.status();
  LockHolder hold(lock_);
  reporting_ = *std::move(reporting);
  most_entries_ = reporting_->ring().size();
  const bool several = ToVirtqueueFeatures(features_).indirect;
  most_reports_ = several ? std::min<size_t>(tables, most_entries_) : 1;
  return absl::OkStatus();
}

size_t BalloonDriver::max_report_entries() const {
  LockHolder hold(lock_);
  return most_entries_;
}

size_t BalloonDriver::max_reports() const {
  LockHolder hold(lock_);
  return most_reports_;
}

DriverContext BalloonDriver::context() const {
  return {.device = device_,
          .ram = ram_,
          .allocator = allocator_,
          .workqueue = workqueue_,
          .cpu = options_.cpu};
}

absl::StatusOr<std::unique_ptr<DriverVirtqueue>> BalloonDriver::SetUpQueue(
    BalloonQueue queue, const DriverVirtqueueOptions& wanted) {
  DriverVirtqueueOptions options = wanted;
  options.index =
      *BalloonQueueIndex(queue, options_.queue_numbering, offered_, features_);
  options.features = ToVirtqueueFeatures(features_);
  auto made = DriverVirtqueue::Create(context(), options, used_);
  if (made.ok()) {
    LockHolder hold(lock_);
    queue_pages_ += (*made)->pages();
    return made;
  }
  return absl::Status(
      made.status().code(),
      absl::StrFormat("%s queue: %s", Name(queue), made.status().message()));
}

absl::Status BalloonDriver::Report(std::span<const GpaRange> ranges,
                                   Client& client) {
  Notifier* kick = nullptr;
  {
    LockHolder hold(lock_);
    if (state_ != State::kReady) {
      return absl::FailedPreconditionError(
          reason_ == Reason::kBroken   ? "the balloon device was broken"
          : reason_ == Reason::kFrozen ? "the balloon driver is frozen"
                                       : "the balloon driver was removed");
    }
    if (reporting_ == nullptr) {
      return absl::FailedPreconditionError(
          "the balloon device does not support reports");
    }
    GUESTMM_CHECK(std::ranges::find(clients_, &client) == clients_.end())
        << "report while another of its client is outstanding";
    DriverQueue& ring = reporting_->ring();
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= ring.size())
        << "a report of " << ranges.size() << " entries: must be at most "
        << ring.size();
    if (clients_.size() >= most_reports_) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%d reports are outstanding: must be at most %d",
                          clients_.size(), most_reports_));
    }
    if (absl::Status status = ring.Add({}, ranges, TokenOf(&client));
        !status.ok()) {
      return status;
    }
    clients_.push_back(&client);
    if (ring.NeedsKick()) {
      ++kicks_;
      kick = &reporting_->kick();
    }
  }
  if (kick != nullptr) kick->Notify();
  return absl::OkStatus();
}

bool BalloonDriver::Freeze() { return Reset(Reason::kFrozen); }

bool BalloonDriver::Remove() { return Reset(Reason::kRemoved); }

absl::Status BalloonDriver::Restore() {
  {
    LockHolder hold(lock_);
    if (reason_ == Reason::kRemoved) {
      return absl::FailedPreconditionError("the balloon driver was removed");
    }
    if (state_ != State::kDown) {
      return absl::FailedPreconditionError(
          state_ == State::kReady ? "the balloon driver is not frozen"
                                  : "the balloon has not completed its reset");
    }
  }
  return StartOrFail();
}

bool BalloonDriver::Reset(Reason reason) {
  {
    LockHolder hold(lock_);
    if (reason_ != Reason::kRemoved) reason_ = reason;
    if (state_ == State::kDown) return true;
    state_ = State::kResetting;
  }
  device_.SetStatus(0);
  if (device_.status() != 0) {
    // HandleConfigChange polls until the reset is complete.
    workqueue_.Queue(config_work_);
    return false;
  }
  // The device no longer notifies, so it is not queued again.
  workqueue_.CancelSync(used_work_);
  workqueue_.CancelSync(config_work_);
  workqueue_.CancelSync(retry_work_);
  ResetIsComplete();
  // An allocation that waits for what was in flight looks again after a work.
  workqueue_.Queue(config_work_);
  return true;
}

void BalloonDriver::ResetIsComplete() {
  std::unique_ptr<DriverVirtqueue> reporting;
  std::unique_ptr<BalloonInflation> inflation;
  std::unique_ptr<BalloonHinting> hinting;
  {
    LockHolder hold(lock_);
    // Another thread has handled it.
    if (state_ != State::kResetting) return;
    reporting = std::move(reporting_);
    inflation = std::move(inflation_);
    hinting = std::move(hinting_);
    queue_pages_ = PageCount(0);
  }
  statistics_.reset();
  reporting.reset();
  inflation.reset();
  hinting.reset();
  std::vector<Client*> clients;
  {
    LockHolder hold(lock_);
    clients.swap(clients_);
  }
  for (Client* const client : clients) {
    client->ReportDone(absl::UnavailableError(
        "the balloon device was reset before it acknowledged"));
  }
  LockHolder hold(lock_);
  state_ = State::kDown;
}

bool BalloonDriver::is_down() const {
  LockHolder hold(lock_);
  return state_ == State::kDown;
}

uint64_t BalloonDriver::kicks() const {
  LockHolder hold(lock_);
  return kicks_;
}

PageCount BalloonDriver::queue_pages() const {
  LockHolder hold(lock_);
  return queue_pages_;
}

PageCount BalloonDriver::balloon_pages() const {
  LockHolder hold(lock_);
  return inflation_ == nullptr ? PageCount(0) : inflation_->pages();
}

PageCount BalloonDriver::hinted_pages() const {
  LockHolder hold(lock_);
  return hinting_ == nullptr ? PageCount(0) : hinting_->pages();
}

absl::Status BalloonDriver::CheckInvariants() const {
  LockHolder hold(lock_);
  if (reporting_ == nullptr) return absl::OkStatus();
  const DriverQueue& ring = reporting_->ring();
  if (state_ == State::kReady && (ring.outstanding() != clients_.size() ||
                                  clients_.size() > most_reports_)) {
    return absl::InternalError(absl::StrFormat(
        "R3: %d chains outstanding, with %d reports outstanding of at most %d",
        ring.outstanding(), clients_.size(), most_reports_));
  }
  return ring.CheckInvariants();
}

void BalloonDriver::HandleUsed() {
  std::vector<Client*> ended;
  absl::Status broken;
  {
    LockHolder hold(lock_);
    if (state_ != State::kReady) return;
    if (reporting_ != nullptr) broken = TakeReports(ended);
  }
  bool step_is_due = false;
  if (broken.ok()) {
    const absl::StatusOr<bool> used = TakeUsed();
    broken = used.status();
    step_is_due = used.ok() && *used;
  }
  if (!broken.ok()) {
    // The device may be doing anything with a report: reset it first.
    {
      LockHolder hold(lock_);
      if (state_ == State::kReady) state_ = State::kBroken;
      clients_.insert(clients_.end(), ended.begin(), ended.end());
    }
    workqueue_.Queue(config_work_);
    return;
  }
  for (Client* const client : ended) client->ReportDone(absl::OkStatus());
  if (step_is_due) Step();
}

absl::Status BalloonDriver::TakeReports(std::vector<Client*>& ended) {
  while (true) {
    const auto used = reporting_->ring().GetUsed();
    if (!used.ok() || !used->has_value()) return used.status();
    const auto client = std::ranges::find(clients_, (*used)->token, &TokenOf);
    if (client == clients_.end()) continue;
    ended.push_back(*client);
    clients_.erase(client);
  }
}

absl::StatusOr<bool> BalloonDriver::TakeUsed() {
  if (statistics_ != nullptr) {
    if (absl::Status status = statistics_->HandleUsed(); !status.ok()) {
      return status;
    }
  }
  const absl::StatusOr<bool> inflated = inflation_->HandleUsed();
  if (!inflated.ok() || hinting_ == nullptr) return inflated;
  const absl::StatusOr<bool> hinted = hinting_->HandleUsed();
  if (!hinted.ok()) return hinted;
  return *inflated || *hinted;
}

void BalloonDriver::HandleConfigChange() {
  const bool needs_reset = (device_.status() & kVirtioNeedsReset) != 0;
  State before;
  {
    LockHolder hold(lock_);
    before = state_;
    if (before == State::kDown || before == State::kStarting) return;
    if (before == State::kReady && needs_reset) before = State::kBroken;
    if (before == State::kBroken) {
      state_ = State::kResetting;
      reason_ = Reason::kBroken;
    }
  }
  if (before == State::kReady) {
    Step();
    return;
  }
  if (before == State::kBroken) device_.SetStatus(0);
  if (device_.status() != 0) {
    workqueue_.Queue(config_work_, kResetPoll);
    return;
  }
  ResetIsComplete();
}

void BalloonDriver::Step() {
  {
    LockHolder hold(lock_);
    if (state_ != State::kReady) return;
  }
  const std::optional<BalloonConfig> config = ReadConfig();
  if (!config) return;
  const std::optional<Nanoseconds> retry = inflation_->Step(config->num_pages);
  if (retry) workqueue_.Queue(retry_work_, *retry);
  if (hinting_ != nullptr) hinting_->Step(config->free_page_hint_cmd_id);
}

std::optional<BalloonConfig> BalloonDriver::ReadConfig() const {
  const size_t bytes = BalloonConfigBytes(offered_);
  // §2.5.1: fields read while the configuration changed may be inconsistent, so
  // read again. The number of attempts is bounded: the device might change it
  // forever.
  constexpr int kTries = 8;
  for (int i = 0; i < kTries; ++i) {
    BalloonConfig config;
    const uint32_t generation = device_.ConfigGeneration();
    const auto into = std::as_writable_bytes(std::span(&config, 1));
    // The device is gone, which NEEDS_RESET reports.
    if (!device_.ReadConfig(0, into.first(bytes)).ok()) return std::nullopt;
    if (device_.ConfigGeneration() == generation) return config;
  }
  return std::nullopt;
}

}  // namespace guestmm
