#include "guestmm/vmm/balloon_offer.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace guestmm {
namespace {

struct Word {
  std::string_view word;
  uint64_t feature;
};
constexpr Word kWords[] = {{"reporting", kBalloonFPageReporting},
                           {"hinting", kBalloonFFreePageHint},
                           {"balloon", kBalloonFDeflateOnOom},
                           {"statistics", kBalloonFStatsVq},
                           {"poison", kBalloonFPagePoison}};

}  // namespace

absl::StatusOr<uint64_t> ParseBalloonOffer(
    const std::vector<std::string>& words) {
  uint64_t features = 0;
  for (const std::string& word : words) {
    uint64_t feature = 0;
    for (const Word& known : kWords) {
      if (known.word == word) feature = known.feature;
    }
    if (feature == 0) {
      features = 0;
      break;
    }
    features |= feature;
  }
  if (features != 0) return features;
  const std::string text = absl::StrJoin(words, ",");
  return absl::InvalidArgumentError(absl::StrCat(
      text.empty() ? "\"\"" : text,
      ": must be one or several of reporting, hinting, balloon, statistics, "
      "poison"));
}

std::string FormatBalloonOffer(uint64_t features) {
  std::string text;
  for (const Word& known : kWords) {
    if ((features & known.feature) == 0) continue;
    if (!text.empty()) text += ',';
    text += known.word;
  }
  return text;
}

}  // namespace guestmm
