#include "guestmm/machine/model/cost_model.h"

#include <array>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kFields = {
    CostField{"allocate", &CostModel::allocate, "block from a vCPU's list"},
    CostField{"free", &CostModel::free, "block to a vCPU's list"},
    CostField{"zone_visit", &CostModel::zone_visit, "zone's lock, by a vCPU"},
    CostField{"zone_block", &CostModel::zone_block,
              "block moved from or to a free list"},
    CostField{"guest_fault", &CostModel::guest_fault, "guest's page fault"},
    CostField{"guest_zero_page", &CostModel::guest_zero_page,
              "guest clears 4 KiB"},
    CostField{"read_page", &CostModel::read_page, "guest reads from 4 KiB"},
    CostField{"exit", &CostModel::exit, "vCPU leaves the guest and returns"},
    CostField{"host_fault_4k", &CostModel::host_fault_4k, "host maps 4 KiB"},
    CostField{"host_zero_4k", &CostModel::host_zero_4k, "host clears 4 KiB"},
    CostField{"host_fault_2m", &CostModel::host_fault_2m, "host maps 2 MiB"},
    CostField{"host_zero_2m", &CostModel::host_zero_2m, "host clears 2 MiB"},
    CostField{"discard_call", &CostModel::discard_call,
              "madvise of what is not resident"},
    CostField{"discard_4k", &CostModel::discard_4k,
              "resident 4 KiB in a madvise"},
    CostField{"discard_2m", &CostModel::discard_2m,
              "resident huge page in a madvise"},
    CostField{"discard_interruption", &CostModel::discard_interruption,
              "running vCPU, for each madvise"},
    CostField{"hook_freed", &CostModel::hook_freed, "BlockFreed"},
    CostField{"hook_taken", &CostModel::hook_taken, "BlocksTaken of a block"},
    CostField{"hook_taken_batch", &CostModel::hook_taken_batch,
              "BlocksTaken of a per-CPU batch"},
    CostField{"reporter_hold", &CostModel::reporter_hold,
              "zone's lock, by the reporter"},
    CostField{"reporter_look", &CostModel::reporter_look,
              "look at a free block"},
    CostField{"reporter_isolate", &CostModel::reporter_isolate,
              "block isolated"},
    CostField{"reporter_return", &CostModel::reporter_return, "block returned"},
    CostField{"report", &CostModel::report, "report through the ring"},
    CostField{"kick", &CostModel::kick, "kick of the device"},
    CostField{"interrupt", &CostModel::interrupt, "interrupt of the guest"},
};
static_assert(sizeof(CostModel) == kFields.size() * sizeof(uint64_t),
              "a cost is missing above");

absl::Status Invalid(std::string_view file, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(file), ": ", what));
}

const CostField* FindField(std::string_view name) {
  for (const CostField& field : kFields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

}  // namespace

std::span<const CostField> CostFields() { return kFields; }

std::string CostsJson(const CostModel& costs) {
  Json fields = Json::object();
  for (const CostField& field : kFields) {
    fields[std::string(field.name)] = costs.*field.value;
  }
  return Json{{"costs_ns", fields}}.dump(2) + "\n";
}

absl::StatusOr<CostModel> ParseCosts(std::string_view file,
                                     std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("costs_ns") ||
      !json["costs_ns"].is_object()) {
    return Invalid(file,
                   "allowed is an object with the object \"costs_ns\", as "
                   "guestmm calibrate writes it");
  }
  CostModel costs;
  for (const auto& [name, value] : json["costs_ns"].items()) {
    const CostField* const field = FindField(name);
    if (field == nullptr) {
      return Invalid(file,
                     absl::StrCat("costs_ns: there is no cost \"", name, "\""));
    }
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxCost) {
      return Invalid(
          file, absl::StrFormat("costs_ns.%s %s: allowed is a whole number of "
                                "nanoseconds from 0 to %d",
                                name, value.dump(), kMaxCost));
    }
    costs.*field->value = value.get<uint64_t>();
  }
  return costs;
}

absl::StatusOr<CostModel> ReadCosts(const std::string& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  if (!stream || !(text << stream.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(file, ": cannot be read"));
  }
  return ParseCosts(file, text.str());
}

}  // namespace guestmm
