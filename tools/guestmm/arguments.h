#ifndef GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
#define GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_

// Options of the kinds that guestmm's commands have. A bad value ends parsing
// with a CLI::ValidationError of one line that names the option, the value and
// what is allowed.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"

namespace guestmm::tools {

// A number of bytes, as ParseBytes takes it: "256MiB", "5 GiB", "4096".
void AddBytes(CLI::App& app, const std::string& name, uint64_t& bytes,
              const std::string& help);

// A whole number from `low` to `high`.
void AddInteger(CLI::App& app, const std::string& name, uint64_t low,
                uint64_t high, std::optional<uint64_t>& value,
                const std::string& help);

// A time, as a decimal number of seconds from `low` to `high`.
void AddSeconds(CLI::App& app, const std::string& name, Nanoseconds low,
                Nanoseconds high, std::optional<Nanoseconds>& value,
                const std::string& help);

// A decimal number; its bounds are the experiment's to check.
void AddNumber(CLI::App& app, const std::string& name,
               std::optional<double>& value, const std::string& help);

// One of some words, each standing for a value.
template <typename T>
void AddChoice(CLI::App& app, const std::string& name,
               const std::vector<std::pair<std::string, T>>& choices, T& value,
               const std::string& help) {
  app.add_option_function<std::string>(
      name,
      [name, choices, &value](const std::string& text) {
        std::string allowed;
        for (const auto& [word, meaning] : choices) {
          if (word == text) {
            value = meaning;
            return;
          }
          allowed += (allowed.empty() ? "" : ", ") + word;
        }
        throw CLI::ValidationError(name + " " + text, "allowed is " + allowed);
      },
      help);
}

// What `parse` makes of the text, of type absl::StatusOr<T>. Its errors begin
// with the text.
template <typename T, typename Parse>
void AddParsed(CLI::App& app, const std::string& name,
               const std::string& type_name, Parse parse, T& value,
               const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, parse, &value](const std::string& text) {
           absl::StatusOr<T> parsed = parse(text);
           if (!parsed.ok()) {
             throw CLI::ValidationError(name + " " +
                                        std::string(parsed.status().message()));
           }
           value = *std::move(parsed);
         },
         help)
      ->type_name(type_name);
}

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
