#include "guestmm/base/choices.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace guestmm {
namespace {

// The slips of typing between two words: letters too many, too few, wrong, or
// in the wrong order.
size_t Slips(std::string_view a, std::string_view b) {
  // slips[i][j]: between the first i letters of `a` and the first j of `b`.
  std::vector<std::vector<size_t>> slips(a.size() + 1,
                                         std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        slips[i][j] = i + j;
        continue;
      }
      const size_t wrong = a[i - 1] == b[j - 1] ? 0 : 1;
      slips[i][j] = std::min({slips[i - 1][j] + 1, slips[i][j - 1] + 1,
                              slips[i - 1][j - 1] + wrong});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        slips[i][j] = std::min(slips[i][j], slips[i - 2][j - 2] + 1);
      }
    }
  }
  return slips[a.size()][b.size()];
}

}  // namespace

std::optional<std::string> Closest(std::string_view word,
                                   const std::vector<std::string>& choices) {
  // Any two words of three letters are alike.
  constexpr size_t kShort = 3;
  if (word.size() <= kShort) return std::nullopt;
  std::optional<std::string> closest;
  size_t least = word.size() / 3 + 1;
  for (const std::string& choice : choices) {
    const bool begins = choice.starts_with(word);
    const size_t slips = begins ? 0 : Slips(word, choice);
    if (slips >= least) continue;
    least = slips;
    closest = choice;
  }
  return closest;
}

std::string DidYouMean(std::string_view word,
                       const std::vector<std::string>& choices) {
  const std::optional<std::string> closest = Closest(word, choices);
  return closest ? absl::StrCat("; did you mean '", *closest, "'?") : "";
}

std::string MustBeOneOf(std::string_view word,
                        const std::vector<std::string>& choices) {
  return absl::StrCat("must be one of ", absl::StrJoin(choices, ", "),
                      DidYouMean(word, choices));
}

}  // namespace guestmm
