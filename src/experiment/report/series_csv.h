#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_SERIES_CSV_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_SERIES_CSV_H_

// series.csv, the same of all experiments: a heading of all columns, then a
// line for each sample, as RFC 4180 has it but for lines that end with a
// newline only. What an experiment does not have is empty.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace guestmm {

// What is resident, free and isolated at one moment.
struct SeriesSample {
  std::string workload;  // its name, or a recording's path
  std::string policy;
  std::string mechanism;
  std::optional<uint64_t> repeat;
  double seconds = 0;
  std::optional<uint64_t> guests;
  uint64_t resident_bytes = 0;
  std::optional<uint64_t> free_bytes;
  std::optional<uint64_t> isolated_bytes;
  std::optional<double> host_share_of_free;
};

class SeriesCsv {
 public:
  SeriesCsv();

  void Add(const SeriesSample& sample);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// The samples in such a text, rounded as they are there. InvalidArgument begins
// with `file` and names the line.
absl::StatusOr<std::vector<SeriesSample>> ParseSeriesCsv(std::string_view file,
                                                         std::string_view text);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_SERIES_CSV_H_
