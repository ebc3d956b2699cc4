#include "guestmm/host/accounting/host_info.h"

#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string_view>

#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {
namespace {

// Reads a line of /proc/meminfo, in bytes; 0 if there is none.
uint64_t Meminfo(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  uint64_t kib = 0;
  std::string rest;
  while (file >> name >> kib && std::getline(file, rest)) {
    if (name == key) return kib * kKiB;
  }
  return 0;
}

// Reads a file that holds one number; none if it does not ("max"), or if there
// is no such file.
std::optional<uint64_t> NumberIn(const char* path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (!(file >> number)) return std::nullopt;
  return number;
}

// Reads the word in brackets of "always [madvise] never".
std::string ThpSetting() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string word;
  while (file >> word) {
    if (word.size() > 2 && word.front() == '[') {
      return word.substr(1, word.size() - 2);
    }
  }
  return "unknown";
}

}  // namespace

HostInfo ReadHostInfo() {
  HostInfo info;
  info.page_size = HostPageSize();
  info.thp = ThpSetting();
  info.memory_bytes = Meminfo("MemTotal:");
  utsname name{};
  if (uname(&name) == 0) {
    info.kernel = std::string(name.sysname) + " " + name.release;
  }
  return info;
}

uint64_t AvailableMemory() {
  uint64_t available = Meminfo("MemAvailable:");
  // Control group v2, at the path where a container sees its own.
  const std::optional<uint64_t> limit = NumberIn("/sys/fs/cgroup/memory.max");
  const std::optional<uint64_t> used =
      NumberIn("/sys/fs/cgroup/memory.current");
  if (limit && used) {
    available = std::min(available, *limit > *used ? *limit - *used : 0);
  }
  return available;
}

}  // namespace guestmm
