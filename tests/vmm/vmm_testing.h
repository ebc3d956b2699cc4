#ifndef GUESTMM_TESTS_VMM_VMM_TESTING_H_
#define GUESTMM_TESTS_VMM_VMM_TESTING_H_

// A VMM and its guests in one process.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/vmm/vmm.h"
#include "tests/testing/await.h"

namespace guestmm {

// A folder for sockets. Removed by the destructor.
class SocketFolder {
 public:
  SocketFolder()
      : folder_(std::filesystem::path(testing::TempDir()) /
                absl::StrCat("guestmm_sockets_", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~SocketFolder() { std::filesystem::remove_all(folder_); }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;

  std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }

 private:
  const std::filesystem::path folder_;
};

inline constexpr uint64_t kOfferAll =
    kBalloonFPageReporting | kBalloonFFreePageHint | kBalloonFDeflateOnOom |
    kBalloonFStatsVq | kBalloonFPagePoison;

// A VMM that offers everything, and guests of 64 MiB that report what they free
// (v12).
class VmmWorld : public testing::Test {
 protected:
  static constexpr uint64_t kGuestBytes = 64 * kMiB;

  VmmWorld() : VmmWorld(VmmOptions{.offered = kOfferAll}) {}
  explicit VmmWorld(VmmOptions options) : vmm_(std::move(options)) {
    EXPECT_EQ(vmm_.Listen(sockets_.path("vmm")), absl::OkStatus());
  }

  std::unique_ptr<Guest> StartGuest() const {
    GuestOptions options;
    options.memory = MemoryMap::Pc(kGuestBytes);
    options.memory_source = MemorySource::kSharedMemfd;
    options.make_policy = [] {
      return std::make_unique<V12Policy>(V12Options{.threshold = 1});
    };
    options.vmm_socket = sockets_.path("vmm");
    auto guest = Guest::Create(options);
    EXPECT_TRUE(guest.ok()) << guest.status();
    return guest.ok() ? *std::move(guest) : nullptr;
  }
  // Frees a block of 2 MiB that it had in use.
  static void FreeABlock(Guest& guest) {
    const auto pfn = guest.vcpu(0).Allocate(kPageblockOrder);
    ASSERT_TRUE(pfn.has_value());
    guest.vcpu(0).Touch(*pfn, kPageblockOrder, 1);
    guest.vcpu(0).Free(*pfn, kPageblockOrder);
  }
  // What the VMM says of guest `id`.
  VmmGuest Look(uint64_t id) {
    for (VmmGuest& guest : vmm_.Guests()) {
      if (guest.id == id) return guest;
    }
    ADD_FAILURE() << "no guest " << id;
    return {};
  }

  const SocketFolder sockets_;
  Vmm vmm_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VMM_VMM_TESTING_H_
