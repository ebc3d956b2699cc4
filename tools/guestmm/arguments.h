#ifndef GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
#define GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_

// The kinds of options that guestmm's commands have. A bad value ends parsing
// with a CLI::ValidationError of one line, in OptionError's form:
// "--vcpus=0: must be a whole number from 1 to 64".

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"

namespace guestmm::tools {

// Throws the error of option `name`: its value is `text`, and `rule` says what
// it must be.
[[noreturn]] void Reject(const std::string& name, const std::string& text,
                         const std::string& rule);

// A number of bytes, as ParseBytes takes it: "256MiB", "5 GiB", "4096". The
// help ends with the default that `bytes` has.
void AddBytes(CLI::App& app, const std::string& name, uint64_t& bytes,
              const std::string& help);
// The same, unset by default.
void AddBytes(CLI::App& app, const std::string& name,
              std::optional<uint64_t>& bytes, const std::string& help);

// A whole number from `low` to `high`.
void AddInteger(CLI::App& app, const std::string& name, uint64_t low,
                uint64_t high, std::optional<uint64_t>& value,
                const std::string& help);

// A time, as a decimal number of seconds from `low` to `high`.
void AddSeconds(CLI::App& app, const std::string& name, Nanoseconds low,
                Nanoseconds high, std::optional<Nanoseconds>& value,
                const std::string& help);

// A decimal number. Its bounds are checked by the experiment.
void AddNumber(CLI::App& app, const std::string& name,
               std::optional<double>& value, const std::string& help);

// One of `choices`, each a word and the value that it stands for.
template <typename T>
void AddChoice(CLI::App& app, const std::string& name,
               const std::vector<std::pair<std::string, T>>& choices, T& value,
               const std::string& help) {
  app.add_option_function<std::string>(
      name,
      [name, choices, &value](const std::string& text) {
        std::string words;
        for (const auto& [word, meaning] : choices) {
          if (word == text) {
            value = meaning;
            return;
          }
          words += (words.empty() ? "" : ", ") + word;
        }
        Reject(name, text, "must be one of " + words);
      },
      help);
}

// The result of `parse`, an absl::StatusOr<T>, for the text. Its errors begin
// with the text: "4Q: must be …".
template <typename T, typename Parse>
void AddParsed(CLI::App& app, const std::string& name,
               const std::string& type_name, Parse parse, T& value,
               const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, parse, &value](const std::string& text) {
           absl::StatusOr<T> parsed = parse(text);
           if (!parsed.ok()) {
             throw CLI::ValidationError(name + "=" +
                                        std::string(parsed.status().message()));
           }
           value = *std::move(parsed);
         },
         help)
      ->type_name(type_name);
}

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
