#include "guestmm/trace/trace_file.h"

#include <zstd.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/option_error.h"
#include "guestmm/base/output_file.h"
#include "src/trace/byte_source.h"
#include "src/trace/open_trace.h"
#include "src/trace/trace_block.h"
#include "src/trace/trace_limits.h"

namespace guestmm {
namespace {

constexpr size_t kBlockHeadBytes = 20;

class TraceFileWriterImpl final : public TraceFileWriter {
 public:
  TraceFileWriterImpl(OutputFile file, std::string path,
                      const TraceFileOptions& options)
      : file_(std::move(file)),
        path_(std::move(path)),
        level_(options.level),
        block_events_(static_cast<size_t>(options.block_events)),
        compressor_(ZSTD_createCCtx(), ZSTD_freeCCtx) {
    std::string head(trace::kTraceFileMagic);
    trace::AppendU32(head, trace::kTraceFileVersion);
    trace::AppendU32(head, static_cast<uint32_t>(options.source.size()));
    head += options.source;
    trace::AppendU32(head, trace::Crc32(head));
    Write(head);
  }

  absl::Status Add(const TraceEvent& event) override {
    if (!status_.ok()) return status_;
    if (event.order > kMaxOrder || event.pfn.value() > trace::kMaxPfn) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": an event of page ", event.pfn.value(),
                       ", order ", event.order.value(),
                       ": expected pages of up to 40 bits, orders of 0 "
                       "to ",
                       kMaxOrder.value()));
    }
    block_.push_back(event);
    ++events_;
    if (block_.size() == block_events_) WriteBlock();
    return status_;
  }

  absl::Status Finish(const TraceReadCounters& source) override {
    if (finished_) {
      return absl::FailedPreconditionError(
          absl::StrCat(path_, ": is finished"));
    }
    finished_ = true;
    if (!block_.empty()) WriteBlock();
    TraceReadCounters counters = source;
    counters.events = events_;
    const std::string end = trace::EncodeCounters(counters);
    WriteBlockOf(trace::kEndBlock, 0, end.size(), end);
    if (status_.ok()) status_ = file_.Commit();
    return status_;
  }

  uint64_t events() const override { return events_; }
  uint64_t encoded_bytes() const override { return encoded_bytes_; }
  uint64_t file_bytes() const override { return file_bytes_; }

 private:
  void Write(const std::string& bytes) {
    if (status_.ok()) status_ = file_.Write(bytes);
    if (status_.ok()) file_bytes_ += bytes.size();
  }

  void WriteBlockOf(uint32_t kind, size_t events, size_t raw_bytes,
                    const std::string& stored) {
    std::string bytes;
    trace::AppendU32(bytes, kind);
    trace::AppendU32(bytes, static_cast<uint32_t>(events));
    trace::AppendU32(bytes, static_cast<uint32_t>(stored.size()));
    trace::AppendU32(bytes, static_cast<uint32_t>(raw_bytes));
    trace::AppendU32(bytes, trace::Crc32(stored, trace::Crc32(bytes)));
    Write(bytes + stored);
  }

  void WriteBlock() {
    const std::string raw = trace::EncodeBlock(block_);
    std::string stored(ZSTD_compressBound(raw.size()), '\0');
    const size_t size =
        ZSTD_compressCCtx(compressor_.get(), stored.data(), stored.size(),
                          raw.data(), raw.size(), level_);
    if (ZSTD_isError(size) != 0) {
      // Nothing else can go wrong.
      status_ =
          absl::ResourceExhaustedError(absl::StrCat(path_, ": out of memory"));
      return;
    }
    stored.resize(size);
    WriteBlockOf(trace::kEventsBlock, block_.size(), raw.size(), stored);
    encoded_bytes_ += raw.size();
    block_.clear();
  }

  OutputFile file_;
  const std::string path_;
  const int level_;
  const size_t block_events_;
  const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> compressor_;
  std::vector<TraceEvent> block_;
  uint64_t events_ = 0;
  uint64_t encoded_bytes_ = 0;
  uint64_t file_bytes_ = 0;
  absl::Status status_;
  bool finished_ = false;
};

class TraceFileReader final : public TraceReader {
 public:
  TraceFileReader(std::unique_ptr<trace::ByteSource> bytes, std::string name)
      : bytes_(std::move(bytes)),
        name_(std::move(name)),
        decompressor_(ZSTD_createDCtx(), ZSTD_freeDCtx) {}

  absl::Status ReadHead() {
    constexpr size_t kMagicBytes = trace::kTraceFileMagic.size();
    std::string head(kMagicBytes + 8, '\0');
    if (!Read(head.data(), head.size())) return Failed("the file's head");
    version_ = trace::LoadU32(head.data() + kMagicBytes);
    const uint32_t source_bytes = trace::LoadU32(head.data() + kMagicBytes + 4);
    if (version_ < trace::kOldestTraceFileVersion ||
        version_ > trace::kTraceFileVersion) {
      return absl::InvalidArgumentError(absl::StrCat(
          name_, ": version ", version_, " of the binary form: expected ",
          trace::kOldestTraceFileVersion, " to ", trace::kTraceFileVersion));
    }
    if (source_bytes > trace::kMaxSourceBytes) {
      return Failed("the length of the source's name");
    }
    source_.resize(source_bytes);
    std::string crc(4, '\0');
    if (!Read(source_.data(), source_.size()) ||
        !Read(crc.data(), crc.size())) {
      return Failed("the file's head");
    }
    if (trace::LoadU32(crc.data()) != trace::Crc32(head + source_)) {
      return Failed("the checksum of the file's head");
    }
    return absl::OkStatus();
  }

  std::string format() const override {
    return absl::StrCat("binary, version ", version_,
                        source_.empty() ? "" : ", from ", source_);
  }
  uint64_t bytes() const override { return raw_bytes_; }

 private:
  // The events of a block.
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    events_.clear();
    if (error_.ok() && !ended_) error_ = ReadBlock();
    if (!error_.ok()) return error_;
    counters_.events += events_.size();
    return events_;
  }
  TraceReadCounters CountRuns() const override { return counters_; }

  // False if the bytes end or cannot be read; Failed says which.
  bool Read(char* to, size_t size) {
    const absl::StatusOr<size_t> got = trace::ReadFully(*bytes_, to, size);
    if (got.ok()) offset_ += *got;
    if (got.ok() && *got == size) return true;
    short_read_ = true;
    if (!got.ok()) {
      read_error_ = got.status();
      return false;
    }
    // An error after some bytes is returned by the next call.
    char byte = 0;
    read_error_ = bytes_->Read(&byte, 1).status();
    return false;
  }

  // DataLoss at the block or head being read.
  absl::Status Failed(const std::string& what) const {
    if (!read_error_.ok()) return read_error_;
    if (short_read_) {
      return absl::DataLossError(
          absl::StrCat(name_, ": the file is truncated: it ends at byte ",
                       offset_, " within ", what, "; the ", counters_.events,
                       " events before it are good"));
    }
    return absl::DataLossError(absl::StrCat(
        name_, ": the file is damaged: ", what, " at byte ", block_offset_,
        " has changed; the ", counters_.events, " events before it are good"));
  }

  // The next block's events, or the end.
  absl::Status ReadBlock() {
    block_offset_ = offset_;
    std::string head(kBlockHeadBytes, '\0');
    if (!Read(head.data(), head.size())) return Failed("a block's head");
    const uint32_t kind = trace::LoadU32(head.data());
    const uint32_t count = trace::LoadU32(head.data() + 4);
    const uint32_t stored_bytes = trace::LoadU32(head.data() + 8);
    const uint32_t raw_bytes = trace::LoadU32(head.data() + 12);
    const uint32_t crc = trace::LoadU32(head.data() + 16);
    // Sizes are not checked by the CRC yet, so they are bounded before memory
    // is allocated by them.
    if ((kind != trace::kEventsBlock && kind != trace::kEndBlock) ||
        count > trace::kMaxBlockEvents || raw_bytes > trace::kMaxBlockBytes ||
        stored_bytes > ZSTD_compressBound(trace::kMaxBlockBytes)) {
      return Failed("a block's head");
    }
    stored_.resize(stored_bytes);
    if (!Read(stored_.data(), stored_.size())) return Failed("a block");
    if (crc != trace::Crc32(stored_, trace::Crc32(head.substr(
                                         0, kBlockHeadBytes - 4)))) {
      return Failed("the checksum of the block");
    }
    if (kind == trace::kEndBlock) return ReadEnd();

    raw_.resize(raw_bytes + trace::kBlockPadding);
    const size_t size =
        ZSTD_decompressDCtx(decompressor_.get(), raw_.data(), raw_bytes,
                            stored_.data(), stored_.size());
    if (ZSTD_isError(size) != 0 || size != raw_bytes) {
      return Failed("the compressed block");
    }
    const absl::Status status = trace::DecodeBlock(raw_, count, events_);
    if (!status.ok()) return Failed(std::string{status.message()});
    raw_bytes_ += raw_bytes;
    return absl::OkStatus();
  }

  absl::Status ReadEnd() {
    TraceReadCounters counters;
    if (!trace::DecodeCounters(stored_, counters) ||
        counters.events != counters_.events) {
      return Failed("the number of events");
    }
    char byte = 0;
    const absl::StatusOr<size_t> more = bytes_->Read(&byte, 1);
    if (!more.ok()) return more.status();
    if (*more != 0) {
      block_offset_ = offset_;
      return Failed("what follows the end");
    }
    counters_ = counters;
    ended_ = true;
    return absl::OkStatus();
  }

  const std::unique_ptr<trace::ByteSource> bytes_;
  const std::string name_;
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> decompressor_;
  uint32_t version_ = 0;
  std::string source_;
  uint64_t offset_ = 0;
  uint64_t block_offset_ = 0;
  uint64_t raw_bytes_ = 0;
  bool short_read_ = false;
  absl::Status read_error_;
  std::string stored_;
  std::string raw_;
  std::vector<TraceEvent> events_;
  bool ended_ = false;
  TraceReadCounters counters_;
  absl::Status error_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TraceFileWriter>> TraceFileWriter::Create(
    const std::string& path, const TraceFileOptions& options) {
  constexpr int kMaxEvents = static_cast<int>(trace::kMaxBlockEvents);
  if (options.level < 1 || options.level > 19) {
    return OptionError("level", absl::StrCat(options.level), "must be 1 to 19");
  }
  if (options.block_events < 1 || options.block_events > kMaxEvents) {
    return OptionError("block-events", absl::StrCat(options.block_events),
                       absl::StrCat("must be 1 to ", kMaxEvents));
  }
  if (options.source.size() > trace::kMaxSourceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("source: must be at most ", trace::kMaxSourceBytes,
                     " bytes; it has ", options.source.size()));
  }
  absl::StatusOr<OutputFile> file = OutputFile::Create(path);
  if (!file.ok()) return file.status();
  return std::make_unique<TraceFileWriterImpl>(*std::move(file), path, options);
}

namespace trace {

absl::StatusOr<std::unique_ptr<TraceReader>> MakeFileReader(
    std::unique_ptr<ByteSource> bytes, const std::string& name) {
  auto reader = std::make_unique<TraceFileReader>(std::move(bytes), name);
  const absl::Status status = reader->ReadHead();
  if (!status.ok()) return status;
  return reader;
}

}  // namespace trace
}  // namespace guestmm
