#ifndef GUESTMM_BASE_CHOICES_H_
#define GUESTMM_BASE_CHOICES_H_

// The rule that a word breaks which is none of some choices.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The choice that `word` begins, or is a slip or two of typing away from. None
// if it is like none of them.
std::optional<std::string> Closest(std::string_view word,
                                   const std::vector<std::string>& choices);

// "; did you mean 'linux'?", or "" without a closest choice.
std::string DidYouMean(std::string_view word,
                       const std::vector<std::string>& choices);

// "must be one of off, linux; did you mean 'linux'?"
std::string MustBeOneOf(std::string_view word,
                        const std::vector<std::string>& choices);

}  // namespace guestmm

#endif  // GUESTMM_BASE_CHOICES_H_
