#include "tools/guestmm/arguments.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/units.h"
#include "tools/guestmm/standard_streams.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

// The whole of `text` as a number. Unset if it is not one.
template <typename T>
std::optional<T> Parse(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  return value;
}

// The text that the help shows for a value.
std::string TypeName(const FieldKind& kind) {
  switch (kind.unit()) {
    case FieldKind::Unit::kCount:
    case FieldKind::Unit::kOrder:
      return "N";
    case FieldKind::Unit::kBytes:
    case FieldKind::Unit::kGranule:
      return kSizeType;
    case FieldKind::Unit::kSeconds:
      return kTimeType;
    case FieldKind::Unit::kNumber:
      return "NUMBER";
    case FieldKind::Unit::kPath:
      return "PATH";
    case FieldKind::Unit::kText:
      break;
    case FieldKind::Unit::kSwitch:
    case FieldKind::Unit::kChoice:
      return absl::StrJoin(kind.words(), "|");
  }
  return "TEXT";
}

// `text`, or for "-" the path of a stream.
std::string PathOf(std::string text, const char* stream, int fd) {
  if (text == "-") text = stream;
  if (text == stream && WasClosed(fd)) {
    throw std::system_error(EBADF, std::generic_category(), stream);
  }
  return text;
}

}  // namespace

void Reject(const std::string& name, const std::string& text,
            const std::string& rule) {
  throw CLI::ValidationError(name + "=" + (text.empty() ? "\"\"" : text), rule);
}

void AddField(CLI::App& app, const std::string& name, const FieldKind& kind,
              const std::string& unset, const std::string& help,
              const std::function<absl::Status(const std::string&)>& set) {
  const bool is_switch = kind.unit() == FieldKind::Unit::kSwitch;
  CLI::Option* const option =
      app.add_option_function<std::string>(
             "--" + name,
             [is_switch, set](const std::string& text) {
               // A file of options has true and false.
               const bool on = text.empty() || text == "true";
               const std::string word = on                ? "on"
                                        : text == "false" ? "off"
                                                          : text;
               const absl::Status status = set(is_switch ? word : text);
               if (!status.ok()) {
                 throw CLI::ValidationError(std::string(status.message()));
               }
             },
             help)
          ->type_name(TypeName(kind) + (unset.empty() ? "" : "|" + unset));
  if (is_switch) option->expected(0, 1);
}

bool TakesValue(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

void AddInteger(CLI::App& app, const std::string& name, uint64_t low,
                uint64_t high, std::optional<uint64_t>& value,
                const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, low, high, &value](const std::string& text) {
           value = Parse<uint64_t>(text);
           if (!value || *value < low || *value > high) {
             Reject(name, text,
                    "must be a whole number from " + std::to_string(low) +
                        " to " + std::to_string(high));
           }
         },
         help)
      ->type_name("N");
}

void AddList(CLI::App& app, const std::string& names,
             std::vector<std::string>& words, const std::string& help) {
  // Not CLI11's delimiter(), which drops empty words.
  app.add_option_function<std::vector<std::string>>(
      names,
      [name = names.substr(0, names.find(',')),
       &words](const std::vector<std::string>& arguments) {
        const std::string text = absl::StrJoin(arguments, ",");
        words = absl::StrSplit(text, ',');
        for (const std::string& word : words) {
          if (!word.empty() || text.empty()) continue;
          Reject(name, text, "must have a word on each side of a comma");
        }
      },
      help);
}

absl::StatusOr<uint64_t> ParseSize(const std::string& text) {
  const std::optional<uint64_t> bytes = ParseBytes(text);
  if (bytes) return *bytes;
  return absl::InvalidArgumentError((text.empty() ? "\"\"" : text) +
                                    ": must be a size, as in 512MiB");
}

absl::StatusOr<uint64_t> ParseRate(const std::string& text) {
  std::string_view size = text;
  if (size.ends_with("/s")) size.remove_suffix(2);
  const std::optional<uint64_t> bytes = ParseBytes(size);
  if (bytes) return *bytes;
  return absl::InvalidArgumentError(
      (text.empty() ? "\"\"" : text) +
      ": must be a size per second, as in 512MiB/s");
}

void AddWide(CLI::App& app) {
  app.add_flag_callback(
      "--wide", PrintWide,
      "Print all columns of tables, and lines of any length "
      "[the columns that fit the terminal, or 80 characters]");
}

std::string InputPath(std::string text) {
  return PathOf(std::move(text), "/dev/stdin", STDIN_FILENO);
}

std::string OutputPath(std::string text) {
  return PathOf(std::move(text), "/dev/stdout", STDOUT_FILENO);
}

void RefuseUnused(const CLI::App& command,
                  const std::vector<std::string>& names,
                  const std::string& when) {
  for (const std::string& name : names) {
    const CLI::Option& option = *command.get_option(name);
    if (option.count() == 0) continue;
    throw CLI::ValidationError(
        TakesValue(option) ? name + "=" + absl::StrJoin(option.results(), ",")
                           : name,
        "must be unset " + when);
  }
}

}  // namespace guestmm::tools
