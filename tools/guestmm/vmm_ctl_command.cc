#include "tools/guestmm/vmm_ctl_command.h"

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guestmm/base/duration.h"
#include "guestmm/base/units.h"
#include "guestmm/vmm/control/client.h"
#include "guestmm/vmm/control/request.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/table.h"

namespace guestmm::tools {
namespace {

constexpr char kName[] = "vmm ctl";

struct CtlArguments {
  std::string control;
  bool json = false;
  ControlRequest request;
};

void Print(const ControlReply& reply) {
  std::cout << reply.metrics;
  for (const auto& [name, value] : reply.values) {
    std::cout << name << ": " << value << "\n";
  }
  if (reply.rows.empty()) {
    if (reply.metrics.empty()) std::cout << "no guests\n";
    return;
  }
  if (!reply.values.empty()) std::cout << "\n";
  Table table({reply.headings.begin(), reply.headings.end()}, Table::kBlocks);
  for (const std::vector<std::string>& row : reply.rows) table.AddRow(row);
  std::cout << table;
}

int RunCtlCommand(const CtlArguments& arguments) {
  const absl::StatusOr<std::string> line =
      AskControl(arguments.control, arguments.request);
  if (!line.ok()) return Fail(kName, line.status(), "--control=");
  const absl::StatusOr<ControlReply> reply = ParseControlReply(*line);
  if (!reply.ok()) return Fail(kName, reply.status());
  if (arguments.json) {
    std::cout << *line << "\n";
  } else {
    Print(*reply);
  }
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddVmmCtlCommand(CLI::App& vmm) {
  const auto arguments = std::make_shared<CtlArguments>();
  ControlRequest& request = arguments->request;
  CLI::App* const ctl = vmm.add_subcommand(
      "ctl", "Controls a running guestmm vmm through its control socket.");
  ctl->require_subcommand(1);
  ctl->add_option("--control", arguments->control,
                  "Path of the socket that vmm --control created")
      ->type_name("PATH")
      ->required();
  AddWide(*ctl);
  ctl->add_flag("--json", arguments->json, "Print the reply's line of JSON");
  AddInteger(*ctl, "--guest", 1, ~uint64_t{0}, request.guest,
             "Number of the guest [all]");
  const auto add = [&](const std::string& name, const std::string& help) {
    CLI::App& added = *ctl->add_subcommand(name, help);
    // --guest may come before or after the command.
    added.fallthrough();
    added.parse_complete_callback([&request, name] { request.command = name; });
    return &added;
  };
  add("status", "Prints what the guests have and did.");
  AddParsed(*add("target", "Sets the size that the balloon should have."),
            kSizeType, kSizeType, ParseSize, request.bytes,
            "Size of the balloon")
      ->required();
  AddChoice<std::string>(
      *add("hint", "Has guests hint all their free memory, once."), "ACTION",
      {{"start", "start"}, {"stop", "stop"}, {"progress", "progress"}},
      request.action, "start, stop or progress");
  CLI::App* const statistics =
      add("statistics", "Prints the latest statistics of the guests' memory.");
  statistics->add_flag("--request", request.request,
                       "Ask for new ones; a later command prints them");
  statistics
      ->add_option_function<std::string>(
          "--interval",
          [&request](const std::string& text) {
            const std::optional<Nanoseconds> time = ParseDuration(text);
            if (!time) Reject("--interval", text, "must be a time, as in 10s");
            request.interval = ToSeconds(*time);
          },
          "Ask for new ones that often; 0: no more")
      ->type_name(kTimeType);
  add("hold", "Pauses discards: reports wait.");
  add("resume", "Goes on with discards.");
  AddParsed(*add("rate", "Sets the largest rate of discards."), kSizeType,
            kSizeType, ParseRate, request.bytes,
            "Size per second, as in 1GiB/s; 0: no limit")
      ->required();
  add("metrics", "Prints counters and states as Prometheus reads them.");
  return [=] { return ctl->parsed() ? RunCtlCommand(*arguments) : -1; };
}

}  // namespace guestmm::tools
