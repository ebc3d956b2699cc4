#include "tools/guestmm/policy_arguments.h"

#include <string>

#include "tools/guestmm/arguments.h"

namespace guestmm::tools {
namespace {

void AddParameter(CLI::App& command, const std::string& name,
                  const std::string& type_name, PolicyArguments& arguments,
                  const std::string& help) {
  command
      .add_option_function<std::string>(
          "--" + name,
          [name, &arguments](const std::string& text) {
            arguments.parameters.push_back({.name = name, .value = text});
          },
          help)
      ->type_name(type_name);
}

}  // namespace

void AddPolicyArguments(CLI::App& command, PolicyArguments& arguments) {
  AddParameter(command, "order", "N", arguments,
               "Smallest block that is reported [9]");
  AddParameter(command, "floor", "N", arguments,
               "adaptive: smallest block of cold memory that is reported; the "
               "same as --order turns this off [0]");
  AddParameter(command, "threshold", "N", arguments,
               "v12: marked blocks in a zone that start a pass [16]");
  AddParameter(command, "capacity", "N", arguments,
               "Most ranges in one report [v12: 16; others: 32]");
  AddParameter(command, "delay", kTimeType, arguments,
               "linux: time from a request to its pass [2]; adaptive: minimum "
               "time that memory must be left alone [0.2]");
}

}  // namespace guestmm::tools
