#include "guestmm/virtio/vhost_user/front_end/device.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "src/virtio/vhost_user/front_end/front_end.h"

namespace guestmm {

absl::StatusOr<std::unique_ptr<VhostUserDevice>> VhostUserDevice::Connect(
    const std::string& path, GuestRam& ram,
    const VhostUserDeviceOptions& options) {
  if (ram.memfd() < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of source %s%s: another process can map only a %s or a %s",
        ram.foreign() ? "foreign " : "", Name(ram.source()),
        Name(MemorySource::kSharedMemfd), Name(MemorySource::kHugetlb)));
  }
  auto front_end = std::make_unique<FrontEnd>(path, ram, options);
  if (absl::Status status = front_end->Connect(); !status.ok()) return status;
  return std::unique_ptr<VhostUserDevice>(
      new VhostUserDevice(std::move(front_end)));
}

VhostUserDevice::VhostUserDevice(std::unique_ptr<FrontEnd> front_end)
    : front_end_(std::move(front_end)) {}

VhostUserDevice::~VhostUserDevice() = default;

absl::Status VhostUserDevice::Reconnect() { return front_end_->Reconnect(); }

void VhostUserDevice::Abandon() { front_end_->Abandon(); }

absl::Status VhostUserDevice::connection() const {
  return front_end_->connection();
}

pid_t VhostUserDevice::vmm_pid() const { return front_end_->vmm_pid(); }

uint32_t VhostUserDevice::device_id() const { return front_end_->device_id(); }

uint64_t VhostUserDevice::DeviceFeatures() const {
  return front_end_->features();
}

absl::Status VhostUserDevice::SetDriverFeatures(uint64_t features) {
  return front_end_->SetDriverFeatures(features);
}

uint8_t VhostUserDevice::status() const { return front_end_->Status(); }

void VhostUserDevice::SetStatus(uint8_t status) {
  front_end_->SetStatus(status);
}

uint32_t VhostUserDevice::ConfigGeneration() const {
  return front_end_->ConfigGeneration();
}

absl::Status VhostUserDevice::ReadConfig(uint32_t offset,
                                         std::span<std::byte> bytes) const {
  return front_end_->ReadConfig(offset, bytes);
}

absl::Status VhostUserDevice::WriteConfig(uint32_t offset,
                                          std::span<const std::byte> bytes) {
  return front_end_->WriteConfig(offset, bytes);
}

uint16_t VhostUserDevice::MaxQueueSize(uint16_t index) const {
  return front_end_->MaxQueueSize(index);
}

absl::StatusOr<Notifier*> VhostUserDevice::SetUpQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used) {
  return front_end_->SetUpQueue(index, layout, used);
}

void VhostUserDevice::SetConfigNotifier(Notifier& config) {
  front_end_->SetConfigNotifier(config);
}

}  // namespace guestmm
