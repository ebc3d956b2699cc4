#include "src/trace/line_reader.h"

#include <algorithm>

#include "absl/status/statusor.h"

namespace guestmm::trace {

std::string LineReader::Shown(std::string_view line) {
  constexpr size_t kShown = 160;
  std::string text(line.substr(0, kShown));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return absl::StrCat("\"", text, line.size() > kShown ? "...\"" : "\"");
}

bool LineReader::Returns(std::string_view& line) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (number_ == 0 && line.starts_with(kByteOrderMark)) {
    line.remove_prefix(kByteOrderMark.size());
  }
  if (line.ends_with('\r')) line.remove_suffix(1);
  ++number_;
  return true;
}

bool LineReader::NextSlowly(std::string_view& line) {
  if (!status_.ok()) return false;
  size_t searched = at_;
  while (true) {
    const char* const data = buffer_.data();
    const auto* const end = std::find(data + searched, data + filled_, '\n');
    const auto bytes = static_cast<size_t>(end - data) - at_;
    const bool found = end != data + filled_;
    if (found && skipping_) {
      skipping_ = false;
      at_ += bytes + 1;
      searched = at_;
      continue;
    }
    if (skipping_) at_ = filled_;
    if (!skipping_ && (found || bytes >= kLongest)) {
      line = std::string_view(data + at_, std::min(bytes, kLongest));
      at_ += bytes + (found ? 1 : 0);
      skipping_ = !found;
      return Returns(line);
    }
    std::copy(data + at_, data + filled_, buffer_.data());
    filled_ -= at_;
    at_ = 0;
    searched = filled_;
    const absl::StatusOr<size_t> got =
        source_->Read(buffer_.data() + filled_, buffer_.size() - filled_);
    if (!got.ok()) {
      // A partial line belongs to the damaged part.
      status_ = got.status();
      return false;
    }
    if (*got == 0) {
      if (filled_ == 0) return false;
      line = std::string_view(buffer_.data(), filled_);
      at_ = filled_;
      complete_ = line.ends_with('\r');
      return Returns(line);
    }
    filled_ += *got;
    read_ += *got;
  }
}

}  // namespace guestmm::trace
