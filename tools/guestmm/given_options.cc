#include "tools/guestmm/given_options.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/guestmm/arguments.h"

namespace guestmm::tools {
namespace {

struct Given {
  std::optional<std::string> value;
  std::string file;
};

// By the option, "--scale". Never destroyed.
std::map<std::string, Given>& GivenOptions() {
  static auto& options = *new std::map<std::string, Given>();
  return options;
}

}  // namespace

void NoteTyped(const CLI::App& command) {
  for (const CLI::Option* const option : command.get_options()) {
    const bool is_one =
        TakesValue(*option) && option->get_items_expected_max() == 1;
    if (is_one && option->results().size() == 1) {
      GivenOptions()[option->get_name()].value = option->results().front();
    }
  }
}

void NoteFromFile(const std::string& option, const std::string& file) {
  GivenOptions()[option].file = file;
}

std::string AsGiven(const std::string& error) {
  // Not of several options.
  const auto found =
      GivenOptions().find(error.substr(0, error.find_first_of("=:")));
  if (found == GivenOptions().end()) return error;
  const auto& [option, given] = *found;
  std::string text = error;
  const std::string typed =
      given.value ? absl::StrCat(option, "=", *given.value) : "";
  if (given.value && !given.value->empty() && !absl::StartsWith(text, typed)) {
    text.replace(0, text.find(": "), typed);
  }
  return given.file.empty() ? text
                            : absl::StrCat(given.file, ": ", Printable(text));
}

std::string Printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace guestmm::tools
