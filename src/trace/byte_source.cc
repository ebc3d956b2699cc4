#include "src/trace/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/base/uninterrupted.h"

namespace guestmm::trace {
namespace {

constexpr size_t kInputBytes = size_t{128} << 10;

absl::Status CannotRead(const std::string& name, int error) {
  const std::string message =
      absl::StrCat(name, ": cannot be read: ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message)
                         : absl::UnavailableError(message);
}

class FileBytes final : public ByteSource {
 public:
  // Of at most `bytes`, from where `fd` is.
  FileBytes(int fd, std::string name, uint64_t bytes = ~uint64_t{0})
      : fd_(fd), name_(std::move(name)), left_(bytes) {}
  ~FileBytes() override { close(fd_); }
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  absl::StatusOr<size_t> Read(char* to, size_t size) override {
    const size_t most = std::min(size, left_);
    const ssize_t got = Uninterrupted([&] { return read(fd_, to, most); });
    if (got < 0) return CannotRead(name_, errno);
    left_ -= static_cast<uint64_t>(got);
    return static_cast<size_t>(got);
  }

 private:
  const int fd_;
  const std::string name_;
  uint64_t left_;
};

// Bytes in memory, followed by those of another source, if it is not null.
class MemoryBytes final : public ByteSource {
 public:
  MemoryBytes(std::string bytes, std::unique_ptr<ByteSource> rest)
      : bytes_(std::move(bytes)), rest_(std::move(rest)) {}

  absl::StatusOr<size_t> Read(char* to, size_t size) override {
    if (at_ == bytes_.size()) {
      if (rest_ == nullptr) return 0;
      return rest_->Read(to, size);
    }
    const size_t got = std::min(size, bytes_.size() - at_);
    std::memcpy(to, bytes_.data() + at_, got);
    at_ += got;
    return got;
  }

 private:
  const std::string bytes_;
  size_t at_ = 0;
  const std::unique_ptr<ByteSource> rest_;
};

// The common part of gzip and zstd: buffers compressed input, and holds an
// error back until all good bytes were returned.
class Decompressor : public ByteSource {
 public:
  Decompressor(std::unique_ptr<ByteSource> source, std::string name,
               std::string what)
      : source_(std::move(source)),
        name_(std::move(name)),
        what_(std::move(what)),
        input_(kInputBytes) {}

  absl::StatusOr<size_t> Read(char* to, size_t size) override {
    size_t made = 0;
    while (made == 0 && error_.ok() && !ended_) {
      // Output pending in the decompressor comes before more input.
      if (consumed_ == filled_ && !may_have_more_) Refill();
      if (!error_.ok() || ended_) break;
      made = Decompress(to, size);
    }
    out_ += made;
    if (made != 0) return made;
    if (!error_.ok()) return error_;
    return 0;
  }

 protected:
  // Decompresses from input() into `to`, and returns the bytes produced. Calls
  // Consume and SetBetween, and Damaged for damaged input.
  virtual size_t Decompress(char* to, size_t size) = 0;

  const char* input() const { return input_.data() + consumed_; }
  size_t input_bytes() const { return filled_ - consumed_; }
  void Consume(size_t bytes) { consumed_ += bytes; }
  // What follows a whole part of the data: others (cat a.gz b.gz), or zeroes,
  // which pad a block of a tape or of a disk. True if the input ends with them.
  bool SkipPadding() {
    while (input_bytes() > 0 && *input() == 0) Consume(1);
    return input_bytes() == 0;
  }
  // True if the compressed data may end here.
  void SetBetween(bool between) { between_ = between; }
  void SetMayHaveMore(bool more) { may_have_more_ = more; }
  void Damaged(const std::string& why) {
    error_ = absl::DataLossError(absl::StrCat(name_, ": the ", what_,
                                              " data are damaged after ", out_,
                                              " decompressed bytes: ", why));
  }

 private:
  void Refill() {
    const absl::StatusOr<size_t> got =
        source_->Read(input_.data(), input_.size());
    if (!got.ok()) {
      error_ = got.status();
      return;
    }
    consumed_ = 0;
    filled_ = *got;
    if (filled_ != 0) return;
    ended_ = true;
    if (!between_) {
      error_ = absl::DataLossError(absl::StrCat(name_, ": the ", what_,
                                                " data are truncated after ",
                                                out_, " decompressed bytes"));
    }
  }

  const std::unique_ptr<ByteSource> source_;
  const std::string name_;
  const std::string what_;
  std::vector<char> input_;
  size_t consumed_ = 0;
  size_t filled_ = 0;
  uint64_t out_ = 0;
  bool between_ = false;
  bool may_have_more_ = false;
  bool ended_ = false;
  absl::Status error_;
};

class GzipBytes final : public Decompressor {
 public:
  GzipBytes(std::unique_ptr<ByteSource> source, const std::string& name)
      : Decompressor(std::move(source), name, "gzip") {
    // 16: expect a gzip header, and check its CRC.
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) Damaged("no memory");
  }
  ~GzipBytes() override { inflateEnd(&stream_); }
  GzipBytes(const GzipBytes&) = delete;
  GzipBytes& operator=(const GzipBytes&) = delete;

 private:
  size_t Decompress(char* to, size_t size) override {
    if (member_ended_) {
      if (SkipPadding()) return 0;
      inflateReset(&stream_);
    }
    member_ended_ = false;
    const auto in_bytes = static_cast<uInt>(input_bytes());
    const auto out_bytes =
        static_cast<uInt>(std::min<size_t>(size, size_t{1} << 30));
    // zlib's interface is older than const.
    stream_.next_in =
        reinterpret_cast<Bytef*>(const_cast<char*>(input()));  // NOLINT
    stream_.avail_in = in_bytes;
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = out_bytes;
    const int result = inflate(&stream_, Z_NO_FLUSH);
    Consume(in_bytes - stream_.avail_in);
    SetMayHaveMore(stream_.avail_out == 0 && result == Z_OK);
    SetBetween(result == Z_STREAM_END);
    if (result == Z_STREAM_END) {
      member_ended_ = true;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      Damaged(stream_.msg != nullptr ? stream_.msg : "not gzip");
    }
    return out_bytes - stream_.avail_out;
  }

  z_stream stream_ = {};
  bool member_ended_ = false;
};

class ZstdBytes final : public Decompressor {
 public:
  ZstdBytes(std::unique_ptr<ByteSource> source, const std::string& name)
      : Decompressor(std::move(source), name, "zstd"),
        stream_(ZSTD_createDCtx(), ZSTD_freeDCtx) {}

 private:
  size_t Decompress(char* to, size_t size) override {
    if (frame_ended_ && SkipPadding()) return 0;
    ZSTD_inBuffer in = {.src = input(), .size = input_bytes(), .pos = 0};
    ZSTD_outBuffer out = {.dst = to, .size = size, .pos = 0};
    const size_t result = ZSTD_decompressStream(stream_.get(), &out, &in);
    Consume(in.pos);
    SetMayHaveMore(out.pos == out.size && result != 0);
    frame_ended_ = result == 0;
    SetBetween(frame_ended_);
    if (ZSTD_isError(result) != 0) Damaged(ZSTD_getErrorName(result));
    return out.pos;
  }

  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> stream_;
  bool frame_ended_ = false;
};

bool IsGzip(const std::string& start) { return start.starts_with("\x1f\x8b"); }

bool IsZstd(const std::string& start) {
  // A frame, or a skippable frame, with which parallel compressors begin.
  return start.starts_with("\x28\xb5\x2f\xfd") ||
         (start.size() >= 4 && start.substr(1, 3) == "\x2a\x4d\x18" &&
          (start[0] & 0xf0) == 0x50);
}

// The program whose compression begins like that, of those that are not read;
// else "".
const char* OtherCompressor(const std::string& start) {
  if (start == std::string_view("\xfd"
                                "7zXZ\0",
                                6))
    return "xz";
  if (start.size() == 6 && start.starts_with("BZh") && start[3] >= '1' &&
      start[3] <= '9' && start.ends_with("1A")) {
    return "bzip2";
  }
  return "";
}

absl::StatusOr<std::unique_ptr<ByteSource>> Decompressed(
    std::unique_ptr<ByteSource> source, const std::string& name) {
  std::string start(6, '\0');
  const absl::StatusOr<size_t> got =
      ReadFully(*source, start.data(), start.size());
  if (!got.ok()) return got.status();
  start.resize(*got);
  if (const char* const program = OtherCompressor(start); *program != '\0') {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": must be plain, gzip or zstd; it is ", program,
                     ", which ", program, " -d makes plain"));
  }
  std::unique_ptr<ByteSource> whole = PutBack(start, std::move(source));
  if (IsGzip(start)) {
    return std::make_unique<GzipBytes>(std::move(whole), name);
  }
  if (IsZstd(start)) {
    return std::make_unique<ZstdBytes>(std::move(whole), name);
  }
  return whole;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(const std::string& path) {
  const int fd =
      Uninterrupted([&] { return open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return CannotRead(path, errno);
  return Decompressed(std::make_unique<FileBytes>(fd, path), path);
}

absl::StatusOr<std::unique_ptr<ByteSource>> OpenRange(const std::string& path,
                                                      uint64_t begin,
                                                      uint64_t end) {
  const int fd =
      Uninterrupted([&] { return open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (fd < 0) return CannotRead(path, errno);
  auto source = std::make_unique<FileBytes>(fd, path, end - begin);
  if (lseek(fd, static_cast<off_t>(begin), SEEK_SET) < 0) {
    return CannotRead(path, errno);
  }
  return source;
}

bool IsPlainText(const std::string& path) {
  constexpr size_t kStart = 4096;
  const auto source = OpenRange(path, 0, kStart);
  if (!source.ok()) return false;
  std::string start(kStart, '\0');
  const auto got = ReadFully(**source, start.data(), start.size());
  if (!got.ok()) return false;
  start.resize(*got);
  return !IsGzip(start) && !IsZstd(start) &&
         start.find('\0') == std::string::npos;
}

absl::StatusOr<std::unique_ptr<ByteSource>> BytesOf(std::string bytes,
                                                    const std::string& name) {
  return Decompressed(PutBack(std::move(bytes), nullptr), name);
}

absl::StatusOr<size_t> ReadFully(ByteSource& source, char* to, size_t size) {
  size_t all = 0;
  while (all < size) {
    const absl::StatusOr<size_t> got = source.Read(to + all, size - all);
    if (!got.ok()) {
      if (all == 0) return got.status();
      break;
    }
    if (*got == 0) break;
    all += *got;
  }
  return all;
}

std::unique_ptr<ByteSource> PutBack(std::string bytes,
                                    std::unique_ptr<ByteSource> source) {
  return std::make_unique<MemoryBytes>(std::move(bytes), std::move(source));
}

}  // namespace guestmm::trace
