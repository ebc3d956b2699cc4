// AvailableMemory, by files of proc and sys in a folder of the test's own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "guestmm/base/units.h"
#include "guestmm/host/accounting/host_info.h"

namespace guestmm::available_memory_test {
namespace {

namespace fs = std::filesystem;

class AvailableMemoryTest : public testing::Test {
 protected:
  AvailableMemoryTest()
      : root_(fs::path(testing::TempDir()) /
              (std::string("available_memory_") +
               testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(root_);
    Write("proc/meminfo",
          "MemTotal:        8000 kB\nMemAvailable:    4000 kB\n");
  }
  ~AvailableMemoryTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  // The files of a group of version 2.
  void WriteGroup(const std::string& group, const std::string& max,
                  const std::string& current) const {
    Write("sys/fs/cgroup" + group + "/memory.max", max + "\n");
    Write("sys/fs/cgroup" + group + "/memory.current", current + "\n");
  }
  absl::StatusOr<uint64_t> Available() const {
    return AvailableMemory(root_.string());
  }

  const fs::path root_;
};

TEST_F(AvailableMemoryTest, WithoutControlGroupsIsMemAvailable) {
  EXPECT_EQ(Available().value(), 4000 * kKiB);
  Write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(Available().value(), 4000 * kKiB);
}

TEST_F(AvailableMemoryTest, TheLeastOfAllLevelsOfVersion2) {
  Write("proc/self/cgroup", "0::/a.slice/b.scope\n");
  WriteGroup("/a.slice/b.scope", "max", "100000");
  EXPECT_EQ(Available().value(), 4000 * kKiB);
  WriteGroup("/a.slice", "1000000", "400000");
  EXPECT_EQ(Available().value(), 600'000u);
  WriteGroup("/a.slice/b.scope", "500000", "100000");
  EXPECT_EQ(Available().value(), 400'000u);
  // As a container sees its own.
  WriteGroup("", "300000", "100000");
  EXPECT_EQ(Available().value(), 200'000u);
  WriteGroup("", "300000", "300001");
  EXPECT_EQ(Available().value(), 0u);
}

TEST_F(AvailableMemoryTest, PageCacheThatCanBeDroppedIsAvailable) {
  Write("proc/self/cgroup", "0::/\n");
  WriteGroup("", "300000", "250000");
  Write("sys/fs/cgroup/memory.stat", "anon 100000\ninactive_file 150000\n");
  EXPECT_EQ(Available().value(), 200'000u);
}

TEST_F(AvailableMemoryTest, TheLeastOfAllLevelsOfVersion1) {
  Write("proc/self/cgroup",
        "5:cpu,cpuacct:/other\n4:hugetlb,memory:/docker/1f\n0::/\n");
  const std::string memory = "sys/fs/cgroup/memory/";
  Write(memory + "memory.limit_in_bytes", "9223372036854771712\n");
  Write(memory + "memory.usage_in_bytes", "1000000\n");
  EXPECT_EQ(Available().value(), 4000 * kKiB);
  // The group itself is not to be seen from within a container.
  Write(memory + "docker/memory.limit_in_bytes", "2000000\n");
  Write(memory + "docker/memory.usage_in_bytes", "1500000\n");
  Write(memory + "docker/memory.stat",
        "inactive_file 1\ntotal_inactive_file 250000\n");
  EXPECT_EQ(Available().value(), 750'000u);
}

TEST_F(AvailableMemoryTest, AGroupOutsideTheNamespaceIsNotLookedFor) {
  Write("proc/self/cgroup", "0::/../../x\n");
  WriteGroup("", "300000", "100000");
  EXPECT_EQ(Available().value(), 200'000u);
}

TEST_F(AvailableMemoryTest, WithoutProcIsUnknownAndNotZero) {
  fs::remove_all(root_ / "proc");
  EXPECT_EQ(Available().status(),
            absl::NotFoundError((root_ / "proc/meminfo").string() +
                                ": cannot be read: No such file or directory"));
  EXPECT_EQ(AllowedMemory(Available()).value(), ~uint64_t{0});
}

// In a process of its own, without file descriptors.
// UndefinedBehaviorSanitizer itself needs file descriptors, to look at an
// object's vptr.
#ifndef GUESTMM_SANITIZED
TEST_F(AvailableMemoryTest, WithoutFileDescriptorsIsAnError) {
  const auto run = [&] {
    const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
    setrlimit(RLIMIT_NOFILE, &none);
    const absl::Status status = AllowedMemory(Available()).status();
    std::_Exit(
        status == absl::UnavailableError((root_ / "proc/meminfo").string() +
                                         ": cannot be read: Too many "
                                         "open files")
            ? 0
            : 1);
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace guestmm::available_memory_test
