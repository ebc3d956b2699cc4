#ifndef GUESTMM_TESTS_VIRTIO_BALLOON_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_BALLOON_TESTING_H_

// Balloons under test: a device whose driver may write anything, and a driver
// whose device can be held up.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/wire/balloon.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm {

inline constexpr uint8_t kUntilFeatures = kVirtioAcknowledge | kVirtioDriver;
inline constexpr uint8_t kAgreedStatus = kUntilFeatures | kVirtioFeaturesOk;
inline constexpr uint8_t kRunningStatus = kAgreedStatus | kVirtioDriverOk;

// Reads the whole configuration of the device.
inline BalloonConfig ReadWholeConfig(const VirtioDevice& device,
                                     uint64_t offered) {
  BalloonConfig config;
  const auto into = std::as_writable_bytes(std::span(&config, 1));
  const absl::Status status =
      device.ReadConfig(0, into.first(BalloonConfigBytes(offered)));
  GUESTMM_CHECK(status.ok()) << std::string(status.message());
  return config;
}

inline absl::Status WriteWord(VirtioDevice& device, size_t offset,
                              uint32_t word) {
  return device.WriteConfig(static_cast<uint32_t>(offset),
                            std::as_bytes(std::span(&word, 1)));
}

// A balloon device, and a driver that may write anything to its queues. Each
// queue has a size of 4, in a page of its own from 0x1000 on.
//
//   0          1 MiB      2 MiB          5 MiB      6 MiB
//   | region 0 | region 1 |     hole     | region 2 |
class HostileBalloon {
 public:
  explicit HostileBalloon(
      const BalloonDeviceOptions& options,
      std::unique_ptr<GuestRam> ram =
          MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}, {Gpa(5 * kMiB), kMiB}}))
      : ram_(std::move(ram)),
        device_(*ram_, hypervisor_, time_, options),
        options_(options) {}

  // Accepts all offered features except `refused`, and sets the queues up.
  // False if the device refuses.
  // Writes `poison` if the driver accepts PAGE_POISON; unset: writes none.
  bool Start(uint64_t refused = 0, std::optional<uint32_t> poison = 0) {
    const uint64_t offered = device_.DeviceFeatures();
    const uint64_t features =
        offered & ~refused & (kBalloonFeatures | kVirtioFVersion1);
    device_.SetStatus(kUntilFeatures);
    GUESTMM_CHECK(device_.SetDriverFeatures(features).ok());
    device_.SetStatus(kAgreedStatus);
    if ((device_.status() & kVirtioFeaturesOk) == 0) return false;
    if ((features & kBalloonFPagePoison) != 0 && poison) {
      GUESTMM_CHECK(device_
                        .WriteConfig(offsetof(BalloonConfig, poison_val),
                                     std::as_bytes(std::span(&*poison, 1)))
                        .ok());
    }
    device_.SetConfigNotifier(config_);
    for (uint16_t place = 0; place < kBalloonQueues; ++place) {
      const auto index =
          BalloonQueueIndex(static_cast<BalloonQueue>(place),
                            options_.queue_numbering, offered, features);
      if (!index) continue;
      const VirtqueueLayout layout =
          LayOutVirtqueue(Gpa((1 + uint64_t{place}) * kPageSize), 4);
      const auto kick = device_.SetUpQueue(*index, layout, used_);
      if (!kick.ok()) continue;  // its feature was refused
      queues_[place].driver = std::make_unique<HostileDriver>(*ram_, layout);
      queues_[place].kick = *kick;
    }
    device_.SetStatus(kRunningStatus);
    return true;
  }

  // Stops all queues, as a front end of vhost-user does between two drivers.
  // Start sets up those of the next one.
  void StopQueues() {
    for (uint16_t index = 0; index < kBalloonQueues; ++index) {
      [[maybe_unused]] const auto base = device_.StopQueue(index);
    }
    for (auto& queue : queues_) {
      if (queue.driver != nullptr) queue.driver->memory().Clear();
    }
  }

  HostileDriver& at(BalloonQueue queue) {
    return *queues_[static_cast<size_t>(queue)].driver;
  }
  void Kick(BalloonQueue queue) {
    queues_[static_cast<size_t>(queue)].kick->Notify();
  }
  // Offers a chain and lets the device handle it.
  void Send(BalloonQueue queue, std::initializer_list<VirtqDesc> chain) {
    at(queue).OfferChain(chain);
    Kick(queue);
    time_.RunUntilIdle();
  }
  // As above, with numbers in one buffer.
  void Send(BalloonQueue queue, std::vector<uint32_t> words) {
    Send(queue, {Words(words)});
  }

  // Writes `words` to a scratch page, and returns a descriptor for them.
  VirtqDesc Words(const std::vector<uint32_t>& words, uint64_t gpa = 0x8000) {
    return Bytes(std::as_bytes(std::span(words)), gpa);
  }
  VirtqDesc Bytes(std::span<const std::byte> bytes, uint64_t gpa = 0x8000) {
    if (!bytes.empty()) {
      std::memcpy(ram_->Translate({Gpa(gpa), bytes.size()})->bytes().data(),
                  bytes.data(), bytes.size());
    }
    return {.addr = gpa,
            .len = static_cast<uint32_t>(bytes.size()),
            .flags = 0,
            .next = 0};
  }
  static VirtqDesc Pages(uint64_t gpa, uint64_t len = kPageSize) {
    return {.addr = gpa,
            .len = static_cast<uint32_t>(len),
            .flags = kVirtqDescWrite,
            .next = 0};
  }

  BalloonConfig config() const {
    return ReadWholeConfig(device_, options_.features);
  }
  BalloonDeviceCounters counters() const { return device_.counters(); }
  // All discarded ranges, in order.
  std::vector<GpaRange> discarded() const {
    std::vector<GpaRange> all;
    for (const std::vector<GpaRange>& batch : hypervisor_.batches()) {
      all.insert(all.end(), batch.begin(), batch.end());
    }
    return all;
  }

  const GuestRam& ram() const { return *ram_; }
  BalloonDevice& device() { return device_; }
  VirtualTime& time() { return time_; }
  int used_notifications() const { return used_.count(); }
  int config_notifications() const { return config_.count(); }
  // Sets a function to call during each discard.
  void OnDiscard(std::function<void()> hook) { hook_ = std::move(hook); }

 private:
  struct Queue {
    std::unique_ptr<HostileDriver> driver;
    Notifier* kick = nullptr;
  };

  const std::unique_ptr<GuestRam> ram_;
  std::array<Queue, kBalloonQueues> queues_;
  CountingNotifier used_;
  CountingNotifier config_;
  std::function<void()> hook_;
  RecordingHypervisor hypervisor_{nullptr, [this](std::span<const GpaRange>) {
                                    if (hook_) hook_();
                                  }};
  VirtualTime time_{1};
  BalloonDevice device_;
  const BalloonDeviceOptions options_;
};

// Logs each call that changes the device's state. Kicks can be held up, so that
// the device does not see yet what was offered.
class SlowDevice final : public VirtioDevice {
 public:
  explicit SlowDevice(VirtioDevice& device) : device_(device) {}

  // "status 0x3", "features 0x…", "queue 0", "config notifier", "write 4:
  // 0x10", "kick 0".
  const std::vector<std::string>& calls() const { return calls_; }
  void Forget() { calls_.clear(); }

  // Holds up kicks of queue `index` until LetGo.
  void Hold(uint16_t index) { held_.insert(index); }
  void LetGo(uint16_t index) {
    held_.erase(index);
    if (waiting_.erase(index) != 0) kicks_.at(index)->next().Notify();
  }

  // The memory of queue `index`. REQUIRES: the driver has set it up.
  VirtqueueMemory QueueMemory(const GuestRam& ram, uint16_t index) const {
    return VirtqueueMemory::Map(ram, layouts_.at(index)).value();
  }

  uint32_t device_id() const override { return device_.device_id(); }
  uint64_t DeviceFeatures() const override { return device_.DeviceFeatures(); }
  absl::Status SetDriverFeatures(uint64_t features) override {
    calls_.push_back(absl::StrFormat("features 0x%x", features));
    return device_.SetDriverFeatures(features);
  }
  uint8_t status() const override { return device_.status(); }
  void SetStatus(uint8_t status) override {
    calls_.push_back(absl::StrFormat("status 0x%x", status));
    device_.SetStatus(status);
  }
  uint32_t ConfigGeneration() const override {
    return device_.ConfigGeneration();
  }
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override {
    absl::Status status = device_.ReadConfig(offset, bytes);
    constexpr size_t kCommand = offsetof(BalloonConfig, free_page_hint_cmd_id);
    if (hint_command && offset == 0 && bytes.size() > kCommand) {
      std::memcpy(bytes.data() + kCommand, &*hint_command, sizeof(uint32_t));
    }
    if (after_read) std::exchange(after_read, nullptr)();
    return status;
  }
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override {
    uint32_t word = 0;
    std::memcpy(&word, bytes.data(), std::min(sizeof(word), bytes.size()));
    calls_.push_back(absl::StrFormat("write %d: 0x%x", offset, word));
    return device_.WriteConfig(offset, bytes);
  }
  uint16_t MaxQueueSize(uint16_t index) const override {
    return device_.MaxQueueSize(index);
  }
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override {
    calls_.push_back(absl::StrFormat("queue %d", index));
    layouts_[index] = layout;
    const auto kick = device_.SetUpQueue(index, layout, used);
    if (!kick.ok()) return kick;
    kicks_[index] = std::make_unique<LoggedKick>(*this, index, **kick);
    return kicks_[index].get();
  }
  void SetConfigNotifier(Notifier& config) override {
    device_.SetConfigNotifier(config);
  }

  // If set, what the driver reads as free_page_hint_cmd_id.
  std::optional<uint32_t> hint_command;
  // Called once, after the next read of the configuration.
  mutable std::function<void()> after_read;

 private:
  class LoggedKick final : public Notifier {
   public:
    LoggedKick(SlowDevice& device, uint16_t index, Notifier& next)
        : device_(device), index_(index), next_(next) {}
    void Notify() override {
      device_.calls_.push_back(absl::StrFormat("kick %d", index_));
      if (device_.held_.count(index_) == 0) {
        next_.Notify();
      } else {
        device_.waiting_.insert(index_);
      }
    }
    Notifier& next() { return next_; }

   private:
    SlowDevice& device_;
    const uint16_t index_;
    Notifier& next_;
  };

  VirtioDevice& device_;
  std::vector<std::string> calls_;
  std::set<uint16_t> held_;
  std::set<uint16_t> waiting_;
  std::map<uint16_t, VirtqueueLayout> layouts_;
  std::map<uint16_t, std::unique_ptr<LoggedKick>> kicks_;
};

// A guest of 8 MiB with a balloon, in virtual time. The lower half belongs to
// the allocator, in blocks of up to 64 KiB; tests may write to the upper half.
class BalloonGuest {
 public:
  static constexpr Order kLargest{4};

  explicit BalloonGuest(const BalloonDeviceOptions& options,
                        PagePoisonMode mode = PagePoisonMode::kOff,
                        Hypervisor* hypervisor = nullptr,
                        std::optional<PerCpuLimits> per_cpu_limits = {})
      : ram_(MakeRam({{Gpa(0), 8 * kMiB}})),
        poison_(*ram_, {.mode = mode}),
        recorder_(hypervisor,
                  [this](std::span<const GpaRange>) {
                    if (on_discard) on_discard();
                  }),
        device_(*ram_, recorder_, time_, options) {
    allocator_ =
        PageAllocator::Create(
            {.memory = {{Pfn(0), Pfn(1024)}},
             .cpus = 1,
             .max_order = kLargest,
             .min_free_kbytes = 64,
             .per_cpu_limits = per_cpu_limits,
             .poison = mode == PagePoisonMode::kOff ? nullptr : &poison_})
            .value();
  }
  ~BalloonGuest() {
    for (const Pfn pfn : taken_) allocator_->Free(0, pfn, Order(0));
  }

  absl::Status Start(BalloonDriverOptions options = {}) {
    options.page_poison = poison_.options().mode;
    auto driver =
        BalloonDriver::Create(slow_, *ram_, *allocator_, time_, options);
    if (!driver.ok()) return driver.status();
    driver_ = *std::move(driver);
    time_.RunUntilIdle();
    return absl::OkStatus();
  }

  // Allocates all pages, and returns their number. The destructor frees them.
  size_t TakeAllPages() {
    size_t count = 0;
    while (const auto pfn = allocator_->Allocate(0, Order(0), kGfpUser)) {
      taken_.push_back(*pfn);
      ++count;
    }
    return count;
  }
  // Frees `count` of them.
  void FreePages(size_t count) {
    for (; count > 0 && !taken_.empty(); --count) {
      allocator_->Free(0, taken_.back(), Order(0));
      taken_.pop_back();
    }
  }
  // Pages that are neither free, nor in queues, nor taken by the test.
  uint64_t held_pages() const {
    return allocator_->Counts().allocated().value() -
           driver_->queue_pages().value() - taken_.size();
  }
  // The numbers in the buffer of the chain last offered in queue `index`.
  std::vector<uint32_t> LastWords(uint16_t index) const {
    const VirtqueueMemory memory = slow_.QueueMemory(*ram_, index);
    const auto last = static_cast<uint16_t>(memory.available_idx().load() - 1);
    const VirtqDesc descriptor =
        memory.LoadDescriptor(memory.available_ring(memory.slot(last)).load());
    std::vector<uint32_t> words(descriptor.len / sizeof(uint32_t));
    std::memcpy(
        words.data(),
        ram_->Translate({Gpa(descriptor.addr), descriptor.len})->bytes().data(),
        words.size() * sizeof(uint32_t));
    return words;
  }
  // The number of chains that the driver has offered in queue `index`.
  uint16_t Offered(uint16_t index) const {
    return slow_.QueueMemory(*ram_, index).available_idx().load();
  }
  BalloonConfig config() const {
    return ReadWholeConfig(device_, device_.DeviceFeatures());
  }
  std::span<std::byte> Bytes(Gpa gpa, uint64_t bytes = kPageSize) const {
    return ram_->Translate({gpa, bytes})->bytes();
  }

  const GuestRam& ram() const { return *ram_; }
  PageAllocator& allocator() { return *allocator_; }
  const PagePoison& poison() const { return poison_; }
  BalloonDevice& device() { return device_; }
  SlowDevice& slow() { return slow_; }
  BalloonDriver& driver() { return *driver_; }
  VirtualTime& time() { return time_; }
  const RecordingHypervisor& hypervisor() const { return recorder_; }
  // Destroys the driver.
  void Stop() { driver_.reset(); }

  std::function<void()> on_discard;

 private:
  const std::unique_ptr<GuestRam> ram_;
  PagePoison poison_;
  std::unique_ptr<PageAllocator> allocator_;
  std::vector<Pfn> taken_;
  VirtualTime time_{1};
  RecordingHypervisor recorder_;
  BalloonDevice device_;
  SlowDevice slow_{device_};
  std::unique_ptr<BalloonDriver> driver_;
};

// Records how reports ended.
class BalloonClient final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override {
    ended_.push_back(status.ok());
  }
  const std::vector<bool>& ended() const { return ended_; }

 private:
  std::vector<bool> ended_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_BALLOON_TESTING_H_
