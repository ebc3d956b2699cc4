#ifndef GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
#define GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_

// The kinds of options that guestmm's commands have. A bad value ends parsing
// with a CLI::ValidationError of one line, in OptionError's form:
// "--vcpus=0: must be a whole number from 1 to 64".

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/fields.h"

namespace guestmm::tools {

// What the help calls values that ParseBytes and ParseDuration read.
inline constexpr char kSizeType[] = "SIZE";
inline constexpr char kTimeType[] = "TIME";

// Throws the error of option `name`: its value is `text`, and `rule` says what
// it must be.
[[noreturn]] void Reject(const std::string& name, const std::string& text,
                         const std::string& rule);

// Adds an option of that kind. `unset`: the word that stands for no value, or
// "". `set` takes the text and returns an OptionError.
void AddField(CLI::App& app, const std::string& name, const FieldKind& kind,
              const std::string& unset, const std::string& help,
              const std::function<absl::Status(const std::string&)>& set);

// Adds an option for each of `fields`, which sets it in `options`; those in
// `but` are the caller's to add. The help is the field's text and, in brackets,
// the value that `options` has now; the text itself has to say what an unset
// one means. A switch may do without a value: "--real-time" turns it on.
template <typename T>
void AddFields(CLI::App& app, const Fields<T>& fields, T& options,
               const std::vector<std::string>& but = {}) {
  for (const Field<T>& field : fields) {
    if (std::find(but.begin(), but.end(), field.name()) != but.end()) continue;
    const std::string value = field.Format(options);
    AddField(app, field.name(), field.kind(), field.unset(),
             value.empty() ? field.text() : field.text() + " [" + value + "]",
             [&fields, &options, name = field.name()](const std::string& text) {
               return fields.Set(options, name, text);
             });
  }
}

// False for a flag.
bool TakesValue(const CLI::Option& option);

// A whole number from `low` to `high`.
void AddInteger(CLI::App& app, const std::string& name, uint64_t low,
                uint64_t high, std::optional<uint64_t>& value,
                const std::string& help);

// Words separated by commas, as one argument or several. `names` is as CLI11
// takes it, the name for errors first. An empty word is refused, unless it is
// all that is given.
void AddList(CLI::App& app, const std::string& names,
             std::vector<std::string>& words, const std::string& help);

// One of `choices`, each a word and the value that it stands for.
template <typename T>
void AddChoice(CLI::App& app, const std::string& name,
               const std::vector<std::pair<std::string, T>>& choices, T& value,
               const std::string& help) {
  std::vector<std::string> words;
  for (const auto& [word, meaning] : choices) words.push_back(word);
  app.add_option_function<std::string>(
         name,
         [name, choices, words, &value](const std::string& text) {
           for (const auto& [word, meaning] : choices) {
             if (word != text) continue;
             value = meaning;
             return;
           }
           Reject(name, text, MustBeOneOf(text, words));
         },
         help)
      ->type_name(absl::StrJoin(words, "|"));
}

// The result of `parse`, an absl::StatusOr<T>, for the text. Its errors begin
// with the text: "4Q: must be …".
template <typename T, typename Parse>
CLI::Option* AddParsed(CLI::App& app, const std::string& name,
                       const std::string& type_name, Parse parse, T& value,
                       const std::string& help) {
  return app
      .add_option_function<std::string>(
          name,
          [name, parse, &value](const std::string& text) {
            auto parsed = parse(text);
            if (!parsed.ok()) {
              throw CLI::ValidationError(
                  name + "=" + std::string(parsed.status().message()));
            }
            value = *std::move(parsed);
          },
          help)
      ->type_name(type_name);
}

// Parsers for it: "1GiB" as bytes; the same per second, with or without "/s".
absl::StatusOr<uint64_t> ParseSize(const std::string& text);
absl::StatusOr<uint64_t> ParseRate(const std::string& text);

// A switch "--wide", for tables of all columns in lines of any length.
void AddWide(CLI::App& app);

// The path that an argument stands for: "-" is stdin, or stdout. Throws
// std::system_error if that was closed.
std::string InputPath(std::string text);
std::string OutputPath(std::string text);

// Throws the error of the first of `names` that was given, though it has no
// effect `when`: "--repeats=3: must be unset in virtual time".
void RefuseUnused(const CLI::App& command,
                  const std::vector<std::string>& names,
                  const std::string& when);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_ARGUMENTS_H_
