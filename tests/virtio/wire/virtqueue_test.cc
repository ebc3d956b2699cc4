#include "guestmm/virtio/wire/virtqueue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "tests/virtio/virtio_testing.h"

namespace guestmm::virtqueue_test {
namespace {

using ::testing::HasSubstr;

// The sizes and alignments in the table of §2.7.
TEST(SplitQueueSpec, S2_7_PartsHaveTheSizesOfTheTable) {
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0x1000), 32);
  EXPECT_EQ(layout.descriptors_bytes(), 16u * 32);
  EXPECT_EQ(layout.available_bytes(), 6u + 2 * 32);
  EXPECT_EQ(layout.used_bytes(), 6u + 8 * 32);
  EXPECT_TRUE(ValidateLayout(layout).ok());
}

TEST(Virtqueue, PartsLieInOrderAndDoNotOverlap) {
  for (uint32_t size = 1; size <= kMaxVirtqueueSize; size *= 2) {
    const auto layout =
        LayOutVirtqueue(Gpa(0x10000), static_cast<uint16_t>(size));
    EXPECT_EQ(layout.descriptors, Gpa(0x10000));
    EXPECT_GE(layout.available,
              layout.descriptors + layout.descriptors_bytes());
    EXPECT_GE(layout.used, layout.available + layout.available_bytes());
    EXPECT_TRUE(layout.used.IsAligned(64));
    EXPECT_EQ(layout.used + layout.used_bytes(),
              Gpa(0x10000) + VirtqueueBytes(static_cast<uint16_t>(size)));
    EXPECT_TRUE(ValidateLayout(layout).ok()) << size;
  }
}

TEST(Virtqueue, AQueueOfThirtyTwoFitsOnePage) {
  EXPECT_LE(VirtqueueBytes(32), kPageSize);
}

TEST(Virtqueue, RefusesASizeThatIsNoPowerOfTwo) {
  for (const int size : {0, 3, 33, 32769, 65535}) {
    VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
    layout.size = static_cast<uint16_t>(size);
    const absl::Status status = ValidateLayout(layout);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_EQ(Message(status), "queue size " + std::to_string(size) +
                                   ": must be a power of 2 up to 32768");
  }
}

TEST(Virtqueue, S2_7_1_RefusesAPartThatIsNotAligned) {
  VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  layout.descriptors = Gpa(0x1008);
  EXPECT_EQ(Message(ValidateLayout(layout)),
            "descriptor table at gpa 0x1008: must be a multiple of 16");
  layout = LayOutVirtqueue(Gpa(0), 4);
  layout.available = Gpa(0x1001);
  EXPECT_EQ(Message(ValidateLayout(layout)),
            "available ring at gpa 0x1001: must be a multiple of 2");
  layout = LayOutVirtqueue(Gpa(0), 4);
  layout.used = Gpa(0x1002);
  EXPECT_EQ(Message(ValidateLayout(layout)),
            "used ring at gpa 0x1002: must be a multiple of 4");
}

TEST(VirtqueueMemory, RefusesAnInvalidLayout) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  EXPECT_TRUE(absl::IsInvalidArgument(
      VirtqueueMemory::Map(*ram, VirtqueueLayout{}).status()));
}

TEST(VirtqueueMemory, NamesThePartThatIsNotInRam) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout good = LayOutVirtqueue(Gpa(0), 4);
  ASSERT_TRUE(VirtqueueMemory::Map(*ram, good).ok());

  VirtqueueLayout layout = good;
  layout.descriptors = Gpa(64 * kKiB - 48);  // the last descriptor is outside
  EXPECT_EQ(Message(VirtqueueMemory::Map(*ram, layout).status()),
            "descriptor table at gpa 0xffd0, 64 bytes: must be within one "
            "region of guest RAM");
  layout = good;
  layout.available = Gpa(~uint64_t{0} - 1);  // would wrap around to 0
  EXPECT_THAT(Message(VirtqueueMemory::Map(*ram, layout).status()),
              HasSubstr("available ring at gpa 0xfffffffffffffffe, 14 bytes"));
  layout = good;
  layout.used = Gpa(kGiB);
  EXPECT_THAT(Message(VirtqueueMemory::Map(*ram, layout).status()),
              HasSubstr("used ring at gpa 0x40000000, 38 bytes"));
}

TEST(VirtqueueMemory, RefusesAPartThatCrossesRegions) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}, {Gpa(64 * kKiB), 64 * kKiB}});
  VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  layout.descriptors = Gpa(64 * kKiB - 16);
  EXPECT_TRUE(
      absl::IsInvalidArgument(VirtqueueMemory::Map(*ram, layout).status()));
}

// Memory is as the specification says, byte by byte.
TEST(SplitQueueSpec, S2_7_5_ADescriptorIsSixteenLittleEndianBytes) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  const VirtqueueMemory memory = VirtqueueMemory::Map(*ram, layout).value();
  const VirtqDesc descriptor = {.addr = 0x0102030405060708,
                                .len = 0x090a0b0c,
                                .flags = 0x0d0e,
                                .next = 0x0f10};
  memory.StoreDescriptor(1, descriptor);
  EXPECT_EQ(memory.LoadDescriptor(1), descriptor);

  const std::array<unsigned char, 16> expected = {
      8, 7, 6, 5, 4, 3, 2, 1, 12, 11, 10, 9, 14, 13, 16, 15};
  const Translation second = ram->Translate({Gpa(16), 16}).value();
  EXPECT_EQ(std::memcmp(second.bytes().data(), expected.data(), 16), 0);
}

TEST(SplitQueueSpec, S2_7_6_And_S2_7_8_RingsBeginWithFlagsAndIdx) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  const VirtqueueMemory memory = VirtqueueMemory::Map(*ram, layout).value();
  memory.available_flags().store(0x0102);
  memory.available_idx().store(0x0304);
  memory.available_ring(1).store(0x0506);
  const std::array<unsigned char, 8> available = {2, 1, 4, 3, 0, 0, 6, 5};
  EXPECT_EQ(std::memcmp(ram->Translate({layout.available, 8})->bytes().data(),
                        available.data(), 8),
            0);
  memory.used_flags().store(0x0102);
  memory.used_idx().store(0x0304);
  memory.StoreUsed(0, {.id = 0x05060708, .len = 0x090a0b0c});
  const std::array<unsigned char, 12> used = {2, 1, 4,  3,  8,  7,
                                              6, 5, 12, 11, 10, 9};
  EXPECT_EQ(std::memcmp(ram->Translate({layout.used, 12})->bytes().data(),
                        used.data(), 12),
            0);
}

TEST(VirtqueueMemory, ClearDoesNotTouchItsNeighbors) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const Translation memory = ram->Translate({Gpa(0), 64 * kKiB}).value();
  const std::span<std::byte> all = memory.bytes();
  std::memset(all.data(), 0xa5, all.size());
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0x1000), 8);
  VirtqueueMemory::Map(*ram, layout).value().Clear();
  EXPECT_EQ(all[0xfff], std::byte{0xa5});
  EXPECT_EQ(all[0x1000], std::byte{0});
  const uint64_t end = 0x1000 + VirtqueueBytes(8);
  EXPECT_EQ(all[end - 1], std::byte{0});
  EXPECT_EQ(all[end], std::byte{0xa5});
}

TEST(VirtqueueMemory, SlotsWrapWithTheSize) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueMemory memory =
      VirtqueueMemory::Map(*ram, LayOutVirtqueue(Gpa(0), 4)).value();
  EXPECT_EQ(memory.slot(3), 3);
  EXPECT_EQ(memory.slot(4), 0);
  EXPECT_EQ(memory.slot(0xffff), 3);
}

}  // namespace
}  // namespace guestmm::virtqueue_test
