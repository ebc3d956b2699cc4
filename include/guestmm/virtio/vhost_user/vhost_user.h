#ifndef GUESTMM_VIRTIO_VHOST_USER_VHOST_USER_H_
#define GUESTMM_VIRTIO_VHOST_USER_VHOST_USER_H_

// The messages of vhost-user. With these the driver's process (the front end)
// and the device's process (the back end) set a device up over a Unix socket:
// they negotiate features, and share guest RAM, queues, and eventfds for
// notifications. From then on they communicate through guest RAM alone.
//
//   header                          payload, by request       ancillary data
//   +---------+-------+--------+    +-------------------+     file descriptors
//   | request | flags | size   |    | `size` bytes      |     (SCM_RIGHTS)
//   +---------+-------+--------+    +-------------------+
//
// VhostUserDevice is a front end, VhostUserServer a back end. Names and numbers
// are those of the specification ("vhost-user, <message>").

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/unique_fd.h"

namespace GUESTMM_EXPORT guestmm {

// Requests of the front end (vhost-user, front-end message types).
enum class VhostUserRequest : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSetBackendReqFd = 21,
  kGetConfig = 24,
  kSetConfig = 25,
  kResetDevice = 34,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
};
// The only request that this back end sends: the configuration or the status
// has changed (vhost-user, back-end message types).
inline constexpr uint32_t kVhostUserBackendConfigChange = 2;

// "SET_OWNER"; "request 99" if the specification has none of this number.
std::string Name(VhostUserRequest request);
// True if the specification has a request of this number.
bool IsNamed(VhostUserRequest request);

// "VIRTIO_F_ACCESS_PLATFORM, bit 7": the bits that are set, for messages. The
// names are those of features common to all devices.
std::string FeatureNames(uint64_t features);
// The same for protocol features: "LOG_SHMFD, PAGEFAULT".
std::string ProtocolFeatureNames(uint64_t features);

// A feature bit beside those of the device: protocol features can be
// negotiated.
inline constexpr uint64_t kVhostUserFProtocolFeatures = uint64_t{1} << 30;

// Protocol features.
inline constexpr uint64_t kVhostUserProtocolMq = uint64_t{1} << 0;
inline constexpr uint64_t kVhostUserProtocolReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kVhostUserProtocolBackendReq = uint64_t{1} << 5;
inline constexpr uint64_t kVhostUserProtocolConfig = uint64_t{1} << 9;
inline constexpr uint64_t kVhostUserProtocolResetDevice = uint64_t{1} << 13;
inline constexpr uint64_t kVhostUserProtocolMemSlots = uint64_t{1} << 15;
inline constexpr uint64_t kVhostUserProtocolStatus = uint64_t{1} << 16;
// The protocol features that both ends here implement.
inline constexpr uint64_t kVhostUserProtocolFeatures =
    kVhostUserProtocolMq | kVhostUserProtocolReplyAck |
    kVhostUserProtocolBackendReq | kVhostUserProtocolConfig |
    kVhostUserProtocolResetDevice | kVhostUserProtocolMemSlots |
    kVhostUserProtocolStatus;

// The bits of VhostUserHeader::flags.
inline constexpr uint32_t kVhostUserVersionMask = 3;
inline constexpr uint32_t kVhostUserVersion = 1;
inline constexpr uint32_t kVhostUserReply = 4;
// With kVhostUserProtocolReplyAck: reply even to a request without a reply of
// its own, with a number: 0 for success.
inline constexpr uint32_t kVhostUserNeedReply = 8;

struct VhostUserHeader {
  uint32_t request;
  uint32_t flags;
  uint32_t size;  // of the payload, in bytes
};
static_assert(sizeof(VhostUserHeader) == 12);

// A memory region that the front end shares. Its file descriptor comes with the
// message.
struct VhostUserRegion {
  uint64_t guest_phys_addr;
  uint64_t size;
  // The region's address in the front end's process, to which the addresses in
  // VhostUserVringAddr refer.
  uint64_t userspace_addr;
  uint64_t mmap_offset;  // offset in the file

  bool operator==(const VhostUserRegion&) const = default;
};
static_assert(sizeof(VhostUserRegion) == 32);

// SET_MEM_TABLE: this, followed by `count` regions.
struct VhostUserMemTableHeader {
  uint32_t count;
  uint32_t padding;
};
static_assert(sizeof(VhostUserMemTableHeader) == 8);

// ADD_MEM_REG, REM_MEM_REG.
struct VhostUserSingleRegion {
  uint64_t padding;
  VhostUserRegion region;
};
static_assert(sizeof(VhostUserSingleRegion) == 40);

// SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE.
struct VhostUserVringState {
  uint32_t index;
  uint32_t num;
};
static_assert(sizeof(VhostUserVringState) == 8);

// SET_VRING_ADDR. Addresses are user addresses of the front end.
struct VhostUserVringAddr {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors;
  uint64_t used;
  uint64_t available;
  uint64_t log;

  bool operator==(const VhostUserVringAddr&) const = default;
};
static_assert(sizeof(VhostUserVringAddr) == 40);
static_assert(offsetof(VhostUserVringAddr, used) == 16);
static_assert(offsetof(VhostUserVringAddr, available) == 24);

// SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR carry a number: the queue's
// index, and a flag for a message without a file descriptor.
inline constexpr uint64_t kVhostUserVringIndexMask = 0xff;
inline constexpr uint64_t kVhostUserVringNoFd = 0x100;

// GET_CONFIG, SET_CONFIG: this, followed by `size` bytes.
struct VhostUserConfigHeader {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
static_assert(sizeof(VhostUserConfigHeader) == 12);
// The largest configuration, in bytes.
inline constexpr uint32_t kVhostUserMaxConfig = 256;

// The limits of a message here, whatever its header says.
inline constexpr uint32_t kVhostUserMaxPayload = 4096;
inline constexpr size_t kVhostUserMaxFds = 8;

// The bytes of one of the structs above.
template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

// A received message.
struct VhostUserMessage {
  VhostUserHeader header;
  std::vector<std::byte> payload;  // header.size bytes
  std::vector<UniqueFd> fds;       // closed with the message unless moved from

  VhostUserRequest request() const {
    return static_cast<VhostUserRequest>(header.request);
  }
  bool needs_reply() const { return (header.flags & kVhostUserNeedReply) != 0; }
  // The payload as a `T`. InvalidArgument, naming both sizes, unless it is
  // exactly one `T`.
  template <typename T>
  absl::StatusOr<T> As() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (absl::Status status = CheckSize(sizeof(T)); !status.ok()) return status;
    T value;
    std::memcpy(&value, payload.data(), sizeof(T));
    return value;
  }
  // InvalidArgument unless the payload is `bytes` bytes long.
  absl::Status CheckSize(size_t bytes) const;
};

// One end of a connection: sends and receives messages with their file
// descriptors over a Unix stream socket. Never blocks. One thread may send
// while another receives.
class VhostUserChannel {
 public:
  VhostUserChannel() = default;
  explicit VhostUserChannel(UniqueFd socket) : socket_(std::move(socket)) {}

  // -1 if there is no socket.
  int fd() const { return socket_.get(); }

  // Unavailable if the other end is closed, or does not read so that the socket
  // is full. REQUIRES: at most kVhostUserMaxPayload bytes and kVhostUserMaxFds
  // fds (CHECKed).
  absl::Status Send(uint32_t request, uint32_t flags,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {}) const;

  // The next message, if it has arrived in full. Else nullopt: call again when
  // the socket is readable. Unavailable if the other end closed the connection
  // between two messages. After any other error the channel is unusable; the
  // error names the request, the value and the limit: InvalidArgument for a
  // payload over kVhostUserMaxPayload, for more than kVhostUserMaxFds fds, or
  // for a wrong version; DataLoss for a message that ends early.
  absl::StatusOr<std::optional<VhostUserMessage>> Receive();

 private:
  UniqueFd socket_;
  // The message being received: the bytes so far, and the fds that came with
  // them.
  std::array<std::byte, sizeof(VhostUserHeader) + kVhostUserMaxPayload> bytes_ =
      {};
  size_t received_ = 0;
  std::vector<UniqueFd> fds_;
};

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_VHOST_USER_VHOST_USER_H_
