#include "src/host/accounting/available_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/units.h"
#include "guestmm/host/accounting/host_info.h"

namespace guestmm {
namespace {

namespace fs = std::filesystem;

// NotFound if there is no such file; Unavailable if it cannot be read.
absl::StatusOr<std::string> ReadText(const fs::path& path) {
  errno = 0;
  std::ifstream file(path);
  if (!file) {
    const std::string message =
        absl::StrCat(path.string(), ": cannot be read: ", std::strerror(errno));
    return errno == ENOENT || errno == ENOTDIR
               ? absl::NotFoundError(message)
               : absl::UnavailableError(message);
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number on the line of `text` that begins with the word `key`.
absl::StatusOr<uint64_t> NumberOf(std::string_view key, const fs::path& path,
                                  const std::string& text) {
  std::istringstream lines(text);
  std::string word;
  uint64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (words >> word >> number && word == key) return number;
  }
  return absl::NotFoundError(
      absl::StrCat(path.string(), ": has no ", std::string(key)));
}

// The names of a version's files, and the line of memory.stat with the page
// cache that the kernel drops before it refuses memory, of the whole subtree.
struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* inactive_file;
};
constexpr CgroupFiles kVersion1 = {
    "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr CgroupFiles kVersion2 = {"memory.max", "memory.current",
                                   "inactive_file"};

// What is left under the limit of one group. None if it has no limit, or is not
// to be seen, as a container's parents are not.
absl::StatusOr<std::optional<uint64_t>> LeftIn(const fs::path& group,
                                               const CgroupFiles& files) {
  uint64_t limit = 0;
  uint64_t usage = 0;
  for (const auto& [name, value] :
       {std::pair(files.limit, &limit), std::pair(files.usage, &usage)}) {
    const absl::StatusOr<std::string> text = ReadText(group / name);
    if (absl::IsNotFound(text.status())) return std::nullopt;
    if (!text.ok()) return text.status();
    // Without a limit: "max".
    if (!absl::SimpleAtoi(*text, value)) return std::nullopt;
  }
  uint64_t cache = 0;
  const absl::StatusOr<std::string> stat = ReadText(group / "memory.stat");
  if (stat.ok()) {
    cache =
        NumberOf(files.inactive_file, group / "memory.stat", *stat).value_or(0);
  }
  usage -= std::min(usage, cache);
  return limit > usage ? limit - usage : 0;
}

// A hierarchy of control groups: where it is mounted, and this process's group.
struct Hierarchy {
  fs::path mount;
  fs::path group;  // relative to the mount
  const CgroupFiles* files;
};

// By the lines of /proc/self/cgroup: "0::/user.slice" is version 2, and
// "4:memory:/docker/1f" version 1.
std::vector<Hierarchy> Hierarchies(const fs::path& root,
                                   const std::string& text) {
  const fs::path mount = root / "sys/fs/cgroup";
  std::vector<Hierarchy> found;
  for (const auto& line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    // A group outside the process's namespace is "/../x": only the root is
    // seen.
    fs::path group = fs::path(parts[2]).relative_path().lexically_normal();
    if (absl::StartsWith(group.string(), "..")) group.clear();
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (parts[0] == "0" && parts[1].empty()) {
      found.push_back({mount, group, &kVersion2});
      // Beside version 1.
      found.push_back({mount / "unified", group, &kVersion2});
    } else if (std::find(controllers.begin(), controllers.end(), "memory") !=
               controllers.end()) {
      found.push_back({mount / "memory", group, &kVersion1});
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<uint64_t> Meminfo(const std::string& root,
                                 std::string_view key) {
  const fs::path path = fs::path(root) / "proc/meminfo";
  const absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return text.status();
  const absl::StatusOr<uint64_t> kib = NumberOf(key, path, *text);
  if (!kib.ok()) return kib.status();
  return *kib * kKiB;
}

absl::StatusOr<uint64_t> AvailableMemory(const std::string& root) {
  const absl::StatusOr<uint64_t> meminfo = Meminfo(root, "MemAvailable:");
  if (!meminfo.ok()) return meminfo.status();
  uint64_t available = *meminfo;
  const absl::StatusOr<std::string> groups =
      ReadText(fs::path(root) / "proc/self/cgroup");
  if (absl::IsNotFound(groups.status())) return available;
  if (!groups.ok()) return groups.status();
  for (const Hierarchy& hierarchy : Hierarchies(root, *groups)) {
    for (fs::path group = hierarchy.group;; group = group.parent_path()) {
      const absl::StatusOr<std::optional<uint64_t>> left =
          LeftIn(hierarchy.mount / group, *hierarchy.files);
      if (!left.ok()) return left.status();
      available = std::min(available, left->value_or(available));
      if (group.empty()) break;
    }
  }
  return available;
}

absl::StatusOr<uint64_t> AllowedMemory(
    const absl::StatusOr<uint64_t>& available) {
  if (absl::IsNotFound(available.status())) return ~uint64_t{0};
  return available;
}

}  // namespace guestmm
