#ifndef GUESTMM_EXPERIMENT_REPORT_COSTS_FILE_H_
#define GUESTMM_EXPERIMENT_REPORT_COSTS_FILE_H_

// costs.json, which `guestmm calibrate` writes and `guestmm compare --costs`
// reads: {"costs_ns": {"allocate": 5, ...}}.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/machine/model/cost_model.h"

namespace GUESTMM_EXPORT guestmm {

// The text of such a file, with every cost.
std::string CostsJson(const CostModel& costs);

// The costs in the text of such a file. Costs that it leaves out keep their
// defaults. InvalidArgument names `file`, the cost and its bounds.
absl::StatusOr<CostModel> ParseCosts(std::string_view file,
                                     std::string_view text);

// As ParseCosts, of a file. NotFound if it cannot be read.
absl::StatusOr<CostModel> ReadCosts(const std::string& file);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_COSTS_FILE_H_
