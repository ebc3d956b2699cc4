#include "tools/guestmm/policy_arguments.h"

#include "guestmm/base/units.h"
#include "tools/guestmm/arguments.h"

namespace guestmm::tools {
namespace {

Order ToOrder(uint64_t order) { return Order(static_cast<int>(order)); }

}  // namespace

PolicyParameters PolicyArguments::ToParameters() const {
  PolicyParameters parameters;
  if (order) parameters.order = ToOrder(*order);
  if (floor) parameters.floor = ToOrder(*floor);
  parameters.threshold = threshold;
  parameters.capacity = capacity;
  parameters.delay = delay;
  return parameters;
}

void AddPolicyArguments(CLI::App& command, PolicyArguments& arguments) {
  constexpr auto kHighest = static_cast<uint64_t>(kMaxOrder.value());
  AddInteger(command, "--order", 0, kHighest, arguments.order,
             "Smallest block that is reported [9]");
  AddInteger(command, "--floor", 0, kHighest, arguments.floor,
             "guestmm: smallest piece of cold memory that is reported; as "
             "--order: none are [0]");
  AddInteger(command, "--threshold", 1, uint64_t{1} << 40, arguments.threshold,
             "v12: marked blocks in a zone that start a pass [16]");
  AddInteger(command, "--capacity", 1, kMaxReportCapacity, arguments.capacity,
             "Most blocks in one report [v12: 16; others: 32]");
  AddSeconds(command, "--delay", Nanoseconds(0), kMaxReportDelay,
             arguments.delay,
             "linux, adaptive: seconds that freed memory waits, at least "
             "[2; 0.2]");
}

}  // namespace guestmm::tools
