#include "tools/guestmm/arguments.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"

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

uint64_t ParseBytesOrReject(const std::string& name, const std::string& text) {
  const std::optional<uint64_t> bytes = ParseBytes(text);
  if (!bytes) {
    Reject(name, text,
           "must be a number of bytes, KiB, MiB, GiB or TiB, as in 256MiB");
  }
  return *bytes;
}

}  // namespace

void Reject(const std::string& name, const std::string& text,
            const std::string& rule) {
  throw CLI::ValidationError(name + "=" + (text.empty() ? "\"\"" : text), rule);
}

void AddBytes(CLI::App& app, const std::string& name, uint64_t& bytes,
              const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, &bytes](const std::string& text) {
           bytes = ParseBytesOrReject(name, text);
         },
         help + " [" + FormatBytes(bytes) + "]")
      ->type_name("BYTES");
}

void AddBytes(CLI::App& app, const std::string& name,
              std::optional<uint64_t>& bytes, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, &bytes](const std::string& text) {
           bytes = ParseBytesOrReject(name, text);
         },
         help)
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
                    "must be a whole number from " + std::to_string(low) +
                        " to " + std::to_string(high));
           }
         },
         help)
      ->type_name("N");
}

void AddSeconds(CLI::App& app, const std::string& name, Nanoseconds low,
                Nanoseconds high, std::optional<Nanoseconds>& value,
                const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, low, high, &value](const std::string& text) {
           const std::optional<double> seconds = Parse<double>(text);
           // Written so that NaN is rejected.
           if (!seconds ||
               !(*seconds >= ToSeconds(low) && *seconds <= ToSeconds(high))) {
             Reject(
                 name, text,
                 absl::StrFormat("must be a number of seconds from %g to %.10g",
                                 ToSeconds(low), ToSeconds(high)));
           }
           value = Nanoseconds(std::llround(*seconds * 1e9));
         },
         help)
      ->type_name("SECONDS");
}

void AddNumber(CLI::App& app, const std::string& name,
               std::optional<double>& value, const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [name, &value](const std::string& text) {
           value = Parse<double>(text);
           if (!value || !std::isfinite(*value)) {
             Reject(name, text, "must be a number, as in 0.25");
           }
         },
         help)
      ->type_name("NUMBER");
}

}  // namespace guestmm::tools
