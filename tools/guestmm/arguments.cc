#include "tools/guestmm/arguments.h"

#include <charconv>
#include <string_view>

#include "guestmm/base/units.h"

namespace guestmm::tools {
namespace {

[[noreturn]] void Reject(const std::string& name, const std::string& text,
                         const std::string& allowed) {
  throw CLI::ValidationError(name + " " + text, "allowed is " + allowed);
}

// The whole of `text` as a number; none if it is not one.
template <typename T>
std::optional<T> Parse(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  return value;
}

std::optional<uint64_t> ParseBytes(std::string_view text) {
  static constexpr std::pair<std::string_view, uint64_t> kUnits[] = {
      {"KiB", kKiB}, {"MiB", kMiB}, {"GiB", kGiB}, {"TiB", kTiB}};
  uint64_t unit = 1;
  for (const auto& [suffix, bytes] : kUnits) {
    if (!text.ends_with(suffix)) continue;
    unit = bytes;
    text.remove_suffix(suffix.size());
    if (text.ends_with(' ')) text.remove_suffix(1);
    break;
  }
  const std::optional<uint64_t> number = Parse<uint64_t>(text);
  if (!number || *number > ~uint64_t{0} / unit) return std::nullopt;
  return *number * unit;
}

}  // namespace

void AddBytes(CLI::App& app, const std::string& name, uint64_t& bytes,
              const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, &bytes](const std::string& text) {
           const std::optional<uint64_t> parsed = ParseBytes(text);
           if (!parsed) {
             Reject(name, text,
                    "a number of bytes, KiB, MiB, GiB or TiB, as in 256MiB");
           }
           bytes = *parsed;
         },
         help + " [" + FormatBytes(bytes) + "]")
      ->type_name("BYTES");
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
                    "a whole number from " + std::to_string(low) + " to " +
                        std::to_string(high));
           }
         },
         help)
      ->type_name("N");
}

void AddNumber(CLI::App& app, const std::string& name,
               std::optional<double>& value, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, &value](const std::string& text) {
           value = Parse<double>(text);
           if (!value) Reject(name, text, "a number, as in 0.25");
         },
         help)
      ->type_name("NUMBER");
}

}  // namespace guestmm::tools
