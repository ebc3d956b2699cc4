#ifndef GUESTMM_SRC_TRACE_LINE_READER_H_
#define GUESTMM_SRC_TRACE_LINE_READER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/byte_source.h"

namespace guestmm::trace {

// Reads a text line by line, in constant memory. A line ends with LF or CR LF;
// a byte order mark of UTF-8 is skipped.
class LineReader {
 public:
  LineReader(std::unique_ptr<ByteSource> source, std::string name)
      : source_(std::move(source)), name_(std::move(name)), buffer_(kBytes) {}

  // Sets `line` to the next line without its end, valid until the next call.
  // False at the end, and after an error (see status()). Lines are cut at 64
  // KiB.
  bool Next(std::string_view& line) {
    const char* const from = buffer_.data() + at_;
    const void* const end =
        at_ == filled_ ? nullptr : std::memchr(from, '\n', filled_ - at_);
    if (end == nullptr || skipping_) return NextSlowly(line);
    line = std::string_view(
        from, static_cast<size_t>(static_cast<const char*>(end) - from));
    at_ += line.size() + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++number_;
    return true;
  }

  // The error that ended reading; OK before, and at the end of the text.
  const absl::Status& status() const { return status_; }
  // False if the last line had no end, so that the text may be truncated in it.
  bool complete() const { return complete_; }
  // The number of the last line, from 1.
  uint64_t number() const { return number_; }
  // Bytes of the lines read so far.
  uint64_t bytes() const { return read_ - (filled_ - at_); }
  const std::string& name() const { return name_; }
  // The place of the last line, e.g. "trace.txt:12".
  std::string Place() const { return absl::StrCat(name_, ":", number_); }
  // InvalidArgument: the last line is `line`, where `what` was expected; or
  // there is no line.
  absl::Status Expected(std::string_view line, std::string_view what) const {
    if (number_ == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, ": is empty: expected ", std::string(what)));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        Place(), ": ", Shown(line), ": expected ", std::string(what),
        complete_ ? "" : "; the file may be cut off there"));
  }
  // The beginning of a line, quoted for a message: on one line, and in ASCII.
  static std::string Shown(std::string_view line);

 private:
  static constexpr size_t kBytes = size_t{256} << 10;
  static constexpr size_t kLongest = size_t{64} << 10;

  bool NextSlowly(std::string_view& line);
  // The rest of Next: counts the line, and takes off what is not its text.
  bool Returns(std::string_view& line);

  const std::unique_ptr<ByteSource> source_;
  const std::string name_;
  std::vector<char> buffer_;
  size_t at_ = 0;
  size_t filled_ = 0;
  uint64_t number_ = 0;
  uint64_t read_ = 0;
  bool complete_ = true;
  // True within a line that was cut.
  bool skipping_ = false;
  absl::Status status_;
};

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_LINE_READER_H_
