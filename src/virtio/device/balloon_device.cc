#include "guestmm/virtio/device/balloon_device.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/virtio/device/ballooned_pages.h"
#include "src/virtio/device/discard_pace.h"
#include "src/virtio/device/guest_bytes.h"

namespace guestmm {
namespace {

static_assert(kBalloonPageSize == kPageSize);

constexpr uint32_t kPoisonVal = offsetof(BalloonConfig, poison_val);

// True if the host may discard memory for a chain of `queue`.
bool Discards(BalloonQueue queue) {
  return queue == BalloonQueue::kInflate || queue == BalloonQueue::kFreePage ||
         queue == BalloonQueue::kReporting;
}

}  // namespace

BalloonDevice::BalloonDevice(const GuestRam& ram, Hypervisor& hypervisor,
                             Workqueue& workqueue,
                             const BalloonDeviceOptions& options)
    : VirtioDeviceBase(ram, workqueue,
                       options.features | ToFeatureBits(options.queue_features),
                       kBalloonQueues, BalloonConfigBytes(options.features),
                       options.max_poll),
      hypervisor_(hypervisor),
      options_(options),
      ballooned_(std::make_unique<BalloonedPages>()),
      pace_(std::make_unique<DiscardPace>(options.max_discard_rate)) {
  GUESTMM_CHECK((options_.features & ~kBalloonFeatures) == 0)
      << "balloon features " << options_.features << ": must be a subset of "
      << kBalloonFeatures;
  for (const uint16_t size :
       {options_.reporting_queue_size, options_.queue_size}) {
    GUESTMM_CHECK(IsVirtqueueSize(size))
        << "balloon queue of " << size
        << " descriptors: must be a power of 2 up to " << kMaxVirtqueueSize;
  }
  batch_.reserve(std::max({size_t{options_.reporting_queue_size},
                           size_t{options_.queue_size}, kMaxBalloonPfns}));
}

BalloonDevice::~BalloonDevice() { ShutDown(); }

std::optional<BalloonQueue> BalloonDevice::QueueAt(uint16_t index,
                                                   uint64_t features) const {
  for (uint16_t place = 0; place < kBalloonQueues; ++place) {
    const auto queue = static_cast<BalloonQueue>(place);
    if (BalloonQueueIndex(queue, options_.queue_numbering, DeviceFeatures(),
                          features) == index) {
      return queue;
    }
  }
  return std::nullopt;
}

bool BalloonDevice::Suffices(uint64_t features) const {
  return (options_.features & ~features & kBalloonFMustTellHost) == 0;
}

uint16_t BalloonDevice::QueueSize(uint16_t index, uint64_t features) const {
  const std::optional<BalloonQueue> queue = QueueAt(index, features);
  if (!queue) return 0;
  return *queue == BalloonQueue::kReporting ? options_.reporting_queue_size
                                            : options_.queue_size;
}

bool BalloonDevice::MayUse(uint16_t index, uint64_t features) const {
  const uint64_t needed = FeatureOf(*QueueAt(index, features));
  return (features & needed) == needed;
}

std::span<const VirtioDeviceBase::ConfigField> BalloonDevice::WritableConfig()
    const {
  // §5.5.6.6.1: poison_val may not change while DRIVER_OK is set.
  static constexpr ConfigField kFields[] = {
      {.offset = offsetof(BalloonConfig, actual),
       .bytes = sizeof(uint32_t),
       .fixed_while_running = false,
       .name = "actual"},
      {.offset = kPoisonVal,
       .bytes = sizeof(uint32_t),
       .fixed_while_running = true,
       .name = "poison_val"}};
  const bool offers_poison = (options_.features & kBalloonFPagePoison) != 0;
  return std::span(kFields).first(offers_poison ? 2 : 1);
}

void BalloonDevice::ConfigWritten(const ConfigField& field, bool accepted) {
  if (field.offset == kPoisonVal) poison_known_ = accepted;
}

void BalloonDevice::QueueStarted(uint16_t index, uint16_t start) {
  if (start != 0) return;
  // A driver begins with this queue. Front ends may not reset the device
  // between two drivers: what is left of the former one ends here.
  const BalloonQueue queue = *QueueAt(index, driver_features_locked());
  if (queue == BalloonQueue::kInflate) {
    forgets_ballooned_ = true;
  } else if (queue == BalloonQueue::kFreePage &&
             (hint_run_ == HintRun::kUnderWay ||
              hint_run_ == HintRun::kUnwanted)) {
    hint_run_ = HintRun::kNone;
    ShowHintCommand(kHintDone);
  }
}

void BalloonDevice::QueueStopped(uint16_t index) {
  // The driver's buffer is offered again when the queue is resumed.
  if (stats_head_ &&
      QueueAt(index, driver_features_locked()) == BalloonQueue::kStats) {
    stats_head_.reset();
  }
}

void BalloonDevice::WasReset() {
  ClearConfig<uint32_t>(offsetof(BalloonConfig, actual));
  if ((options_.features & kBalloonFFreePageHint) != 0) {
    ClearConfig<uint32_t>(offsetof(BalloonConfig, free_page_hint_cmd_id));
  }
  if ((options_.features & kBalloonFPagePoison) != 0) {
    ClearConfig<uint32_t>(kPoisonVal);
  }
  poison_known_ = false;
  hint_run_ = HintRun::kNone;
  ballooned_->Clear();
  stats_head_.reset();
  LockHolder hold(results_);
  counters_ = tally_;
  statistics_ = {};
  wants_statistics_ = false;
}

void BalloonDevice::SetTarget(uint32_t pages) {
  {
    LockHolder hold(mutex_);
    ChangeConfig(offsetof(BalloonConfig, num_pages), pages);
  }
  AskForHandling();
}

absl::Status BalloonDevice::RequestStatistics() {
  if ((driver_features() & kBalloonFStatsVq) == 0) {
    return absl::FailedPreconditionError(
        "statistics requested of a driver that did not accept STATS_VQ");
  }
  {
    LockHolder hold(results_);
    wants_statistics_ = true;
  }
  AskForHandling();
  return absl::OkStatus();
}

BalloonStatistics BalloonDevice::statistics() const {
  LockHolder hold(results_);
  return statistics_;
}

absl::Status BalloonDevice::StartHinting() {
  {
    LockHolder hold(mutex_);
    if ((driver_features_locked() & kBalloonFFreePageHint) == 0) {
      return absl::FailedPreconditionError(
          "hints requested of a driver that did not accept FREE_PAGE_HINT");
    }
    // §5.5.6.5.2: an id is not reused before the driver has sent STOP.
    if (hint_run_ != HintRun::kNone) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "hints requested while run %d has not ended", hint_command_));
    }
    hint_run_ = HintRun::kWanted;
    hint_command_ = NextHintRun(hint_command_);
    ShowHintCommand(hint_command_);
  }
  AskForHandling();
  return absl::OkStatus();
}

void BalloonDevice::StopHinting() {
  {
    LockHolder hold(mutex_);
    if (hint_run_ == HintRun::kUnderWay) {
      hint_run_ = HintRun::kUnwanted;
      ShowHintCommand(kHintStop);
    } else if (hint_run_ == HintRun::kWanted) {
      // The driver may never start the run, so it has nothing to stop. It may
      // still hold the pages of the previous run, though, which DONE releases.
      hint_run_ = HintRun::kNone;
      ShowHintCommand(kHintDone);
    }
  }
  AskForHandling();
}

bool BalloonDevice::hinting() const {
  LockHolder hold(mutex_);
  return hint_run_ != HintRun::kNone;
}

bool BalloonDevice::WantsHints() const {
  LockHolder hold(mutex_);
  return hint_run_ == HintRun::kUnderWay;
}

void BalloonDevice::HoldDiscards(bool hold) {
  pace_->Hold(hold);
  AskForHandling();
}

bool BalloonDevice::holds_discards() const { return pace_->holds(); }

void BalloonDevice::SetMaxDiscardRate(uint64_t bytes_per_second) {
  pace_->SetMaxRate(bytes_per_second);
  AskForHandling();
}

uint64_t BalloonDevice::max_discard_rate() const { return pace_->max_rate(); }

Nanoseconds BalloonDevice::Postponed(uint16_t index) {
  const std::optional<BalloonQueue> queue = QueueAt(index, driver_features());
  return queue && Discards(*queue) ? pace_->Rest(Now()) : Nanoseconds(0);
}

BalloonDeviceCounters BalloonDevice::counters() const {
  LockHolder hold(results_);
  return counters_;
}

void BalloonDevice::Publish() {
  LockHolder hold(results_);
  counters_ = tally_;
}

void BalloonDevice::Acknowledging(uint16_t /*index*/) {
  if (queue_ == BalloonQueue::kReporting) ++tally_.acknowledged;
  Publish();
}

void BalloonDevice::FoundBroken(uint16_t /*index*/) {
  ++tally_.broken_queues;
  Publish();
}

void BalloonDevice::HandleRequests() {
  {
    LockHolder hold(results_);
    // Without a buffer, one is on its way or the driver is not set up yet.
    if (!wants_statistics_ || !stats_head_) return;
    wants_statistics_ = false;
  }
  const std::optional<uint16_t> index =
      BalloonQueueIndex(BalloonQueue::kStats, options_.queue_numbering,
                        DeviceFeatures(), driver_features());
  queue_ = BalloonQueue::kStats;
  GiveBack(*index, *std::exchange(stats_head_, std::nullopt));
}

VirtioDeviceBase::Verdict BalloonDevice::HandleChain(
    uint16_t index, const DescriptorChain& chain) {
  if (chain.table_fault != TableFault::kNone) {
    ++tally_.skipped_tables[static_cast<size_t>(chain.table_fault)];
  }
  queue_ = *QueueAt(index, driver_features());
  switch (queue_) {
    case BalloonQueue::kInflate:
    case BalloonQueue::kDeflate:
      HandlePages(chain);
      break;
    case BalloonQueue::kStats:
      HandleStatistics(index, chain);
      return Verdict::kKeep;
    case BalloonQueue::kFreePage:
      HandleHints(chain);
      break;
    case BalloonQueue::kReporting:
      HandleReport(chain);
      break;
  }
  return Verdict::kGiveBack;
}

void BalloonDevice::HandleReport(const DescriptorChain& chain) {
  ++tally_.reports;
  batch_.clear();
  uint64_t bytes = 0;
  for (const VirtqDesc& descriptor : chain.descriptors) {
    const std::optional<GpaRange> range = CheckRange(descriptor);
    if (!range) continue;
    batch_.push_back(*range);
    bytes += range->bytes;
  }
  if (KeepsPoison()) return;
  tally_.ranges += batch_.size();
  tally_.bytes += bytes;
  DiscardBatch();
}

void BalloonDevice::HandlePages(const DescriptorChain& chain) {
  const bool inflates = queue_ == BalloonQueue::kInflate;
  {
    LockHolder hold(mutex_);
    if (std::exchange(forgets_ballooned_, false)) ballooned_->Clear();
  }
  const uint64_t granule_pages = ram().discard_granule() / kPageSize;
  // Without MUST_TELL_HOST the driver may reuse pages once their inflation was
  // acknowledged. So a granule may only be discarded if all its pages are in
  // this chain.
  const bool is_told_first = (driver_features() & kBalloonFMustTellHost) != 0;
  BalloonedPages of_this_chain;
  const BalloonedPages& certain = is_told_first ? *ballooned_ : of_this_chain;
  for (const VirtqDesc& descriptor : chain.descriptors) {
    batch_.clear();
    const std::span<const std::byte> entries =
        ReadEntries(descriptor, sizeof(uint32_t));
    for (size_t at = 0; at < entries.size(); at += sizeof(uint32_t)) {
      const Pfn pfn(LoadLittleEndian<uint32_t>(entries.data() + at));
      if (!ram().Translate({ToGpa(pfn), kPageSize})) {
        ++tally_.bad_pfns;
      } else if (!inflates) {
        ++(ballooned_->Erase(pfn) ? tally_.deflated_pages
                                  : tally_.repeated_pfns);
      } else {
        // A page that was in the balloon before may be other memory by now.
        ++(ballooned_->Insert(pfn) ? tally_.inflated_pages
                                   : tally_.repeated_pfns);
        if (!is_told_first) of_this_chain.Insert(pfn);
        const GpaRange whole = certain.WholeRange(pfn, granule_pages);
        if (whole.bytes > 0 && ram().Translate(whole)) batch_.push_back(whole);
      }
    }
    // In ascending order the hypervisor joins adjacent ranges.
    std::sort(
        batch_.begin(), batch_.end(),
        [](const GpaRange& a, const GpaRange& b) { return a.gpa < b.gpa; });
    batch_.erase(std::unique(batch_.begin(), batch_.end()), batch_.end());
    if (!KeepsPoison(/*fills_before_use=*/true)) DiscardBatch();
  }
}

void BalloonDevice::HandleStatistics(uint16_t index,
                                     const DescriptorChain& chain) {
  BalloonStatistics statistics;
  for (const VirtqDesc& descriptor : chain.descriptors) {
    const std::span<const std::byte> entries =
        ReadEntries(descriptor, kBalloonStatBytes);
    // §5.5.6.3.2: entries come in any order; unknown tags are ignored.
    for (size_t at = 0; at < entries.size(); at += kBalloonStatBytes) {
      const auto tag = LoadLittleEndian<uint16_t>(entries.data() + at);
      if (tag >= kBalloonStats) continue;
      statistics[static_cast<BalloonStat>(tag)] =
          LoadLittleEndian<uint64_t>(entries.data() + at + sizeof(tag));
    }
  }
  ++tally_.stats_updates;
  {
    LockHolder hold(results_);
    statistics_ = statistics;
    wants_statistics_ = false;
  }
  // §5.5.6.3.1 allows the driver one buffer. Given a second, return the first.
  if (stats_head_) GiveBack(index, *stats_head_);
  stats_head_ = chain.head;
  Publish();
}

void BalloonDevice::HandleHints(const DescriptorChain& chain) {
  batch_.clear();
  for (const VirtqDesc& descriptor : chain.descriptors) {
    if ((descriptor.flags & (kVirtqDescWrite | kVirtqDescIndirect)) == 0) {
      // Discard first: the command may end the run that these hints belong to.
      DiscardHints();
      const std::span<const std::byte> entries =
          ReadEntries(descriptor, sizeof(uint32_t));
      if (entries.size() == sizeof(uint32_t)) {
        HandleHintCommand(LoadLittleEndian<uint32_t>(entries.data()));
      } else if (!entries.empty()) {
        ++tally_.bad_commands;
      }
      continue;
    }
    const std::optional<GpaRange> range = CheckRange(descriptor);
    if (!range) continue;
    if (WantsHints()) {
      batch_.push_back(*range);
    } else {
      ++tally_.skipped_hints;
    }
  }
  DiscardHints();
}

void BalloonDevice::DiscardHints() {
  if (!KeepsPoison()) {
    tally_.hints += batch_.size();
    for (const GpaRange& range : batch_) tally_.hinted_bytes += range.bytes;
    DiscardBatch();
  }
  batch_.clear();
}

void BalloonDevice::HandleHintCommand(uint32_t command) {
  {
    LockHolder hold(mutex_);
    if (command == hint_command_ && hint_run_ == HintRun::kWanted) {
      hint_run_ = HintRun::kUnderWay;
      ++tally_.hint_runs;
    } else if (command == kHintStop && hint_run_ != HintRun::kWanted) {
      // Every hint before the command was discarded, so the driver may have its
      // pages back.
      hint_run_ = HintRun::kNone;
      ShowHintCommand(kHintDone);
    } else {
      // A command for a run that has ended, or the id of this one again.
      ++tally_.bad_commands;
    }
  }
  AskForHandling();
}

std::optional<GpaRange> BalloonDevice::CheckRange(const VirtqDesc& descriptor) {
  const GpaRange range = {Gpa(descriptor.addr), descriptor.len};
  if ((descriptor.flags & kVirtqDescIndirect) != 0) {
    ++tally_.skipped_indirect;
  } else if ((descriptor.flags & kVirtqDescWrite) == 0) {
    ++tally_.skipped_readable;
  } else if (range.bytes == 0) {
    ++tally_.skipped_empty;
  } else if (!range.gpa.IsAligned(ram().discard_granule()) ||
             range.bytes % ram().discard_granule() != 0) {
    ++tally_.skipped_unaligned;
  } else if (Find(range)) {
    return range;
  }
  return std::nullopt;
}

std::optional<Translation> BalloonDevice::Find(const GpaRange& range) {
  std::optional<Translation> memory = ram().Translate(range);
  if (!memory) {
    ++(ram().Translate({range.gpa, 1}) ? tally_.skipped_across_region
                                       : tally_.skipped_outside_ram);
  }
  return memory;
}

std::span<const std::byte> BalloonDevice::ReadEntries(
    const VirtqDesc& descriptor, size_t entry_bytes) {
  const GpaRange range = {Gpa(descriptor.addr), descriptor.len};
  if ((descriptor.flags & kVirtqDescIndirect) != 0) {
    ++tally_.skipped_indirect;
  } else if ((descriptor.flags & kVirtqDescWrite) != 0) {
    ++tally_.skipped_writable;
  } else if (range.bytes == 0) {
    ++tally_.skipped_empty;
  } else if (range.bytes > buffer_.size()) {
    ++tally_.skipped_too_long;
  } else if (range.bytes % entry_bytes != 0) {
    ++tally_.skipped_unaligned;
  } else if (const auto memory = Find(range)) {
    CopyFromGuest(memory->bytes(), buffer_.data());
    return std::span(buffer_).first(range.bytes);
  }
  return {};
}

bool BalloonDevice::KeepsPoison(bool fills_before_use) {
  {
    LockHolder hold(mutex_);
    if ((driver_features_locked() & kBalloonFPagePoison) == 0) return false;
    if (poison_known_ &&
        (fills_before_use || GetConfigLocked<uint32_t>(kPoisonVal) == 0)) {
      return false;
    }
  }
  // §5.5.6.7.2: a page may only be changed to poison_val, and a discarded page
  // reads as zeroes.
  tally_.poisoned_ranges += batch_.size();
  for (const GpaRange& range : batch_) tally_.poisoned_bytes += range.bytes;
  return true;
}

void BalloonDevice::DiscardBatch() {
  if (batch_.empty()) return;
  if (!hypervisor_.Discard(batch_).ok()) ++tally_.discard_errors;
  uint64_t bytes = 0;
  for (const GpaRange& range : batch_) bytes += range.bytes;
  pace_->Spend(bytes, Now());
}

}  // namespace guestmm
