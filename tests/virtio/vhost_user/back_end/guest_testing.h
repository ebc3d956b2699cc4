#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_GUEST_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_GUEST_TESTING_H_

// A guest whose memory is checked byte by byte, and its reporting driver.

#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "guestmm/virtio/wire/virtqueue.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm {

// Guest RAM in memfds, and what is in each page. Page 0 and those of the rings
// come first; the others are `units`.
class GuestMemory {
 public:
  enum class Kind { kOneMemfd, kTwoMemfds, kHugetlb };

  // The pages of rings: 16 for one set of queues, and 16 for another.
  static constexpr GpaRange kRings = {Gpa(0x10000), 32 * kPageSize};
  static constexpr uint64_t kHotAdded = 8 * kGiB;

  // What is shared of one memfd.
  struct Part {
    GpaRange range;
    uint64_t offset;
    UniqueFd memfd;
  };

  // REQUIRES for kHugetlb: 5 free huge pages.
  explicit GuestMemory(Kind kind) : kind_(kind) {
    switch (kind) {
      case Kind::kOneMemfd:
        Add({Gpa(0), kMiB});
        break;
      case Kind::kTwoMemfds:
        Add({Gpa(0), kMiB / 2});
        Add({Gpa(4 * kGiB), kMiB / 2}, /*offset=*/kMiB);
        break;
      case Kind::kHugetlb:
        Add({Gpa(0), 8 * kMiB});
        break;
    }
  }

  // The units of memory that can be reported: discard granules.
  uint64_t unit() const { return ram_->discard_granule(); }
  const std::vector<GpaRange>& units() const { return units_; }
  GpaRange unit_at(uint64_t i) const { return units_[i % units_.size()]; }
  const std::vector<Part>& parts() const { return parts_; }
  const GuestRam& ram() const { return *ram_; }

  // Plugs memory in, all of it in use.
  void Add(GpaRange range, uint64_t offset = 0) {
    const bool huge = kind_ == Kind::kHugetlb;
    Part part = {range, offset,
                 MakeMemfd(range.bytes + offset, F_SEAL_SHRINK,
                           huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0)};
    GUESTMM_CHECK(ram_->AdoptRegion(range, part.memfd.get(), offset).ok());
    parts_.push_back(std::move(part));
    for (GpaRange one = {range.gpa, unit()}; one.gpa < range.gpa + range.bytes;
         one.gpa = one.gpa + unit()) {
      if (one.gpa.value() >= std::max(kMiB / 4, unit())) units_.push_back(one);
    }
    Use(range);
  }
  void Remove(GpaRange range) {
    GUESTMM_CHECK(ram_->RemoveRegion(range).ok());
    std::erase_if(parts_,
                  [&](const Part& part) { return part.range == range; });
    const auto in_range = [&](Gpa gpa) {
      return range.gpa <= gpa && gpa < range.gpa + range.bytes;
    };
    std::erase_if(units_,
                  [&](const GpaRange& one) { return in_range(one.gpa); });
    std::erase_if(pages_, [&](const auto& page) {
      return in_range(ToGpa(Pfn(page.first)));
    });
  }

  // Writes new contents, as the guest's processes do.
  void Use(GpaRange range) {
    ForEach(range, [&](uint64_t pfn, std::span<std::byte> bytes) {
      pages_[pfn] = {.stamp = ++last_stamp_};
      if (IsRing(pfn)) return;
      std::memcpy(bytes.data(), Expected(pfn).data(), bytes.size());
    });
  }
  // Has `value` at guest address 2: a back end once took its place in a ring
  // from there.
  void SetWordAt2(uint16_t value) {
    at_2_ = value;
    Use({Gpa(0), kPageSize});
  }

  // From now until GiveBack the host may discard the range.
  void Lend(GpaRange range) {
    ForEach(range, [&](uint64_t pfn, auto) { pages_[pfn].lent = true; });
  }
  // `discarded`: the range must read zero; else it must be as before.
  void GiveBack(GpaRange range, bool discarded) {
    ForEach(range, [&](uint64_t pfn, auto) {
      pages_[pfn].lent = false;
      if (discarded) pages_[pfn].stamp = 0;
    });
  }

  bool IsLent(GpaRange range) const {
    bool lent = true;
    ForEach(range, [&](uint64_t pfn, auto) { lent &= pages_.at(pfn).lent; });
    return lent;
  }

  // Says which pages have a byte that is not as it must be.
  std::string WrongPages() const {
    std::string wrong;
    for (const GpaRange& region : ram_->regions()) {
      ForEach(region, [&](uint64_t pfn, std::span<std::byte> bytes) {
        if (IsRing(pfn) || pages_.at(pfn).lent) return;
        if (std::memcmp(bytes.data(), Expected(pfn).data(), bytes.size()) ==
            0) {
          return;
        }
        absl::StrAppendFormat(&wrong,
                              "page 0x%x, stamp %d, has first word 0x%x\n", pfn,
                              pages_.at(pfn).stamp, FirstWord(bytes));
      });
    }
    return wrong;
  }
  void Check() const { EXPECT_EQ(WrongPages(), ""); }

 private:
  struct Page {
    uint64_t stamp = 0;  // of its contents; 0 for zeroes
    bool lent = false;
  };
  using Contents = std::array<uint64_t, kPageSize / sizeof(uint64_t)>;

  static bool IsRing(uint64_t pfn) {
    const Gpa gpa = ToGpa(Pfn(pfn));
    return kRings.gpa <= gpa && gpa < kRings.gpa + kRings.bytes;
  }
  static uint64_t FirstWord(std::span<const std::byte> bytes) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    return word;
  }
  Contents Expected(uint64_t pfn) const {
    Contents words = {};
    const uint64_t stamp = pages_.at(pfn).stamp;
    if (stamp == 0) return words;
    for (size_t i = 0; i < words.size(); ++i) {
      words[i] = (stamp << 32) + (pfn << 9) + i + 1;
    }
    if (pfn == 0) {
      std::memcpy(reinterpret_cast<std::byte*>(words.data()) + 2, &at_2_,
                  sizeof(at_2_));
    }
    return words;
  }
  template <typename Visit>
  void ForEach(GpaRange range, const Visit& visit) const {
    const auto memory = ram_->Translate(range);
    GUESTMM_CHECK(memory.has_value()) << range;
    for (uint64_t at = 0; at < range.bytes; at += kPageSize) {
      visit((range.gpa + at).value() / kPageSize,
            memory->bytes().subspan(at, kPageSize));
    }
  }

  const Kind kind_;
  // Maps the memfds, as a VMM does for its guest.
  const std::unique_ptr<GuestRam> ram_ = GuestRam::CreateForeign().value();
  std::vector<Part> parts_;
  std::vector<GpaRange> units_;
  std::map<uint64_t, Page> pages_;  // by pfn
  uint64_t last_stamp_ = 0;
  uint16_t at_2_ = 0;
};

// The guest's balloon driver, as far as it reports: three queues, the third is
// used.
class ReportingGuest {
 public:
  static constexpr uint16_t kQueues = 3;
  static constexpr uint16_t kReporting = 2;
  static constexpr uint16_t kSize = 8;

  explicit ReportingGuest(GuestMemory& memory) : memory_(memory) { Bind(0); }

  // A new driver takes the device over: with empty rings, in one of two places.
  void Bind(int place) {
    // The old driver's reports, whether or not they were discarded.
    for (const GpaRange& range : lent_) memory_.Use(range);
    lent_.clear();
    place_ = place;
    // In this order, the old driver's rings first.
    queue_.reset();
    for (uint16_t index = 0; index < kQueues; ++index) {
      queue_ = DriverQueue::Create(memory_.ram(), Layout(index),
                                   {.features = {.event_index = true}})
                   .value();
    }
  }
  VirtqueueLayout Layout(uint16_t index) const {
    return LayOutVirtqueue(
        GuestMemory::kRings.gpa +
            (16u * static_cast<unsigned>(place_) + index) * kPageSize,
        kSize);
  }
  uint16_t UsedIndex(uint16_t index) const {
    return VirtqueueMemory::Map(memory_.ram(), Layout(index))
        ->used_idx()
        .load();
  }

  // Offers a report; Kick tells the device. REQUIRES: none of it is lent.
  void Offer(GpaRange range) {
    memory_.Lend(range);
    lent_.push_back(range);
    GUESTMM_CHECK(queue_->Add({}, std::span(&range, 1), lent_.size() - 1).ok());
  }
  void Kick() {
    if (queue_->NeedsKick()) Notify();
  }
  // Kicks whether the device wants it or not.
  void Notify() const {
    const uint64_t one = 1;
    GUESTMM_CHECK(write(kick_.get(), &one, sizeof(one)) == sizeof(one));
  }
  // Takes the reports that have come back. False if the ring is broken.
  bool TakeReturned() {
    while (true) {
      const auto used = queue_->GetUsed();
      if (!used.ok()) return false;
      if (!used->has_value()) break;
      const GpaRange range = lent_[(*used)->token];
      memory_.GiveBack(range, fate == Fate::kDiscarded);
      if (fate == Fate::kUnknown) memory_.Use(range);
    }
    if (queue_->outstanding() == 0) lent_.clear();
    return true;
  }
  // Waits until all reports have come back. False if that takes too long, or if
  // the ring is broken.
  bool AwaitAll() {
    while (TakeReturned()) {
      if (queue_->outstanding() == 0) return true;
      if (!AwaitEvents(call_.get(), POLLIN)) break;
      uint64_t calls = 0;
      if (read(call_.get(), &calls, sizeof(calls)) < 0) break;
    }
    return false;
  }
  bool Report(GpaRange range) {
    Offer(range);
    Kick();
    return AwaitAll();
  }
  uint16_t outstanding() const { return queue_->outstanding(); }
  int kick() const { return kick_.get(); }
  int call() const { return call_.get(); }

  // What the host must do with a report. With kUnknown the guest uses what has
  // come back at once.
  enum class Fate { kDiscarded, kKept, kUnknown };
  Fate fate = Fate::kDiscarded;

 private:
  GuestMemory& memory_;
  const UniqueFd kick_ = MakeEventFd();
  const UniqueFd call_ = MakeEventFd();
  int place_ = 0;
  std::optional<DriverQueue> queue_;
  std::vector<GpaRange> lent_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_GUEST_TESTING_H_
