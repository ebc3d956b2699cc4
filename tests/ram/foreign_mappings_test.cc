// The table of foreign mappings, at every step of a change.

#include "src/ram/foreign_mappings.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <optional>
#include <ostream>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/reserved_array.h"

namespace guestmm::foreign_mappings_test {
namespace {

constexpr size_t kBytes = 16;

// Offsets of a mapping's start and end in the array below; none if there is no
// mapping.
using Extent = std::optional<std::pair<size_t, size_t>>;

// Mappings of one byte each, one behind the other, as many as the table has
// room for.
class Fillers {
 public:
  Fillers(std::byte* start, size_t count) : start_(start) {
    while (end_ < count && AddForeignMapping(start_ + end_, 1)) ++end_;
  }
  ~Fillers() {
    while (first_ < end_) RemoveFirst();
  }
  Fillers(const Fillers&) = delete;
  Fillers& operator=(const Fillers&) = delete;

  size_t size() const { return end_ - first_; }
  void RemoveFirst() {
    EXPECT_TRUE(RemoveForeignMapping(start_ + first_, 1, [] { return true; }));
    ++first_;
  }

 private:
  std::byte* const start_;
  size_t first_ = 0;
  size_t end_ = 0;
};

// A mapping of kBytes. Only its addresses are used.
class ForeignMappingsTest : public testing::Test {
 protected:
  ForeignMappingsTest() { GUESTMM_CHECK(AddForeignMapping(start_, kBytes)); }
  ~ForeignMappingsTest() override {
    for (size_t at = 0; at < kBytes;) {
      const Extent found = ExtentAt(at);
      at = found ? found->second : at + 1;
      if (found) Remove(found->first, found->second, true);
    }
  }

  Extent ExtentAt(size_t at) const {
    Extent extent;
    UseForeignMapping(start_ + at, [&](std::span<std::byte> found) {
      const auto from = static_cast<size_t>(found.data() - start_);
      extent.emplace(from, from + found.size());
      return true;
    });
    return extent;
  }
  // Removes [from, to); `unmapped` is what unmapping returns.
  bool Remove(size_t from, size_t to, bool unmapped) const {
    return RemoveForeignMapping(start_ + from, to - from,
                                [=] { return unmapped; });
  }

  std::byte* const start_ = [] {
    static ReservedArray array = ReservedArray::Create(64 * kKiB).value();
    return static_cast<std::byte*>(array.data());
  }();
};

TEST_F(ForeignMappingsTest, IsFoundFromItsFirstToItsLastByte) {
  EXPECT_EQ(ExtentAt(0), Extent({0, kBytes}));
  EXPECT_EQ(ExtentAt(kBytes - 1), Extent({0, kBytes}));
  EXPECT_EQ(ExtentAt(kBytes), std::nullopt);
}

TEST_F(ForeignMappingsTest, GivesTheResultOfItsUse) {
  EXPECT_FALSE(UseForeignMapping(start_, [](auto) { return false; }));
  EXPECT_TRUE(UseForeignMapping(start_, [](auto) { return true; }));
  EXPECT_FALSE(UseForeignMapping(start_ + kBytes, [](auto) { return true; }));
}

struct Part {
  size_t from;
  size_t to;
};
void PrintTo(const Part& part, std::ostream* out) {
  *out << part.from << " to " << part.to;
}

class ForeignPartTest : public ForeignMappingsTest,
                        public testing::WithParamInterface<Part> {
 protected:
  // What is left of the mapping is found, and nothing else.
  void ExpectThePartIsOut() const {
    const size_t from = GetParam().from;
    const size_t to = GetParam().to;
    const Extent before = from > 0 ? Extent({0, from}) : std::nullopt;
    const Extent after = to < kBytes ? Extent({to, kBytes}) : std::nullopt;
    for (size_t at = 0; at < kBytes; ++at) {
      SCOPED_TRACE(at);
      EXPECT_EQ(ExtentAt(at), at < from ? before
                              : at < to ? std::nullopt
                                        : after);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(All, ForeignPartTest,
                         testing::Values(Part{0, kBytes}, Part{0, 4},
                                         Part{12, kBytes}, Part{4, 12}));

TEST_P(ForeignPartTest, IsOutBeforeItIsUnmappedAndTheRestIsNot) {
  const size_t from = GetParam().from;
  const size_t to = GetParam().to;
  EXPECT_TRUE(RemoveForeignMapping(start_ + from, to - from, [&] {
    ExpectThePartIsOut();
    return true;
  }));
  ExpectThePartIsOut();
}

TEST_P(ForeignPartTest, IsBackIfItCannotBeUnmapped) {
  const size_t from = GetParam().from;
  const size_t to = GetParam().to;
  EXPECT_FALSE(Remove(from, to, false));
  for (size_t at = 0; at < kBytes; ++at) {
    ASSERT_EQ(ExtentAt(at), Extent({0, kBytes})) << at;
  }
  EXPECT_TRUE(Remove(0, kBytes, true));
  for (size_t at = 0; at < kBytes; ++at) {
    ASSERT_EQ(ExtentAt(at), std::nullopt) << at;
  }
}

// Another thread looks for what stays, all the while.
TEST_P(ForeignPartTest, TheRestIsFoundAtEveryMoment) {
  const size_t from = GetParam().from;
  const size_t to = GetParam().to;
  std::vector<size_t> rest;
  if (from > 0) rest.push_back(from - 1);
  if (to < kBytes) rest.push_back(to);
  const auto churn = [&] {
    std::atomic<bool> over{false};
    std::atomic<bool> missed{false};
    std::thread seeker([&] {
      while (!over.load()) {
        for (const size_t at : rest) {
          if (!ExtentAt(at)) missed = true;
        }
      }
    });
    for (int i = 0; i < 500; ++i) EXPECT_FALSE(Remove(from, to, false));
    over = true;
    seeker.join();
    EXPECT_FALSE(missed);
  };
  churn();
  // An entry for the rest is now far behind that of the whole.
  Fillers fillers(start_ + kBytes, 2000);
  churn();
  // And here far before it.
  EXPECT_TRUE(Remove(0, kBytes, true));
  Fillers one(start_ + kBytes + 2000, 1);
  EXPECT_TRUE(AddForeignMapping(start_, kBytes));
  fillers.RemoveFirst();
  churn();
}

// A handler that has found it maps over it: not after it is unmapped.
TEST_F(ForeignMappingsTest, IsNotUnmappedWhileItIsUsed) {
  std::atomic<bool> used{false};
  std::thread remover;
  EXPECT_TRUE(UseForeignMapping(start_, [&](auto) {
    used = true;
    remover = std::thread([&] {
      EXPECT_TRUE(RemoveForeignMapping(start_, kBytes, [&] {
        EXPECT_FALSE(used);
        return true;
      }));
    });
    while (ExtentAt(0)) std::this_thread::yield();
    // Time for a removal that does not wait.
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    used = false;
    return true;
  }));
  remover.join();
}

// Not under a sanitizer, where filling the table takes minutes.
#ifndef GUESTMM_SANITIZED
TEST_F(ForeignMappingsTest, AFullTableRefusesASplit) {
  Fillers fillers(start_ + kBytes, 60 * kKiB);
  EXPECT_GT(fillers.size(), 30000u);
  EXPECT_FALSE(AddForeignMapping(start_ + 63 * kKiB, 1));
  EXPECT_FALSE(RemoveForeignMapping(start_ + 4, 4, [] {
    ADD_FAILURE() << "unmapped";
    return true;
  }));
  for (const size_t at : {0, 3, 4, 7, 8}) {
    EXPECT_EQ(ExtentAt(at), Extent({0, kBytes})) << at;
  }
  // An end of it takes no more room.
  EXPECT_TRUE(Remove(0, 4, true));
  EXPECT_TRUE(Remove(12, kBytes, true));
  EXPECT_EQ(ExtentAt(4), Extent({4, 12}));
  // A removal makes room.
  fillers.RemoveFirst();
  EXPECT_TRUE(Remove(6, 8, true));
}
#endif

}  // namespace
}  // namespace guestmm::foreign_mappings_test
