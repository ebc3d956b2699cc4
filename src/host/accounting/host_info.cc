#include "guestmm/host/accounting/host_info.h"

#include <sys/utsname.h>

#include <fstream>
#include <string>

#include "guestmm/base/fields.h"
#include "guestmm/base/option_error.h"
#include "guestmm/ram/guest_ram.h"
#include "src/host/accounting/available_memory.h"

namespace guestmm {
namespace {

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

// The first "model name" of /proc/cpuinfo.
std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace

HostInfo ReadHostInfo() {
  HostInfo info;
  info.page_size = HostPageSize();
  info.thp = ThpSetting();
  info.cpu = CpuModel();
  const absl::StatusOr<uint64_t> total = Meminfo("/", "MemTotal:");
  if (total.ok()) info.memory_bytes = *total;
  utsname name{};
  if (uname(&name) == 0) {
    info.kernel = std::string(name.sysname) + " " + name.release;
  }
  return info;
}

absl::Status CheckRealHost(Order granule, bool khugepaged) {
  if (granule != Order(0) && granule != kPageblockOrder) {
    return OptionError("granule", FieldKind::Granule().Format(granule.bits()),
                       "must be 4KiB or 2MiB with --real");
  }
  if (khugepaged) {
    return OptionError("khugepaged", "on",
                       "must be off with --real; this machine has its own");
  }
  return absl::OkStatus();
}

absl::Status CheckKhugepaged(Order granule, bool khugepaged) {
  if (!khugepaged || granule == kPageblockOrder) return absl::OkStatus();
  return OptionError("khugepaged", "on",
                     "must be off with granules below 2 MiB: without huge "
                     "pages it has no effect");
}

}  // namespace guestmm
