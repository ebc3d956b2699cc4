#ifndef GUESTMM_BASE_CHECK_H_
#define GUESTMM_BASE_CHECK_H_

// GUESTMM_CHECK(condition) << "what was wrong: " << value;
//
// Ends the process with file, line and message if the condition is false, in
// all builds. For misuse of the library by its caller and for invariants.
// Errors in a configuration, a file or a guest are a Status or a counter
// instead.

#include <sstream>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {
namespace internal {

// Collects the message and aborts in its destructor.
class CheckFailure {
 public:
  [[gnu::cold]] CheckFailure(const char* file, int line, const char* condition);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();

  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Gives the false arm of the macro the type of the true one.
struct Voidify {
  void operator&&(std::ostream&) const {}
};

}  // namespace internal
}  // namespace guestmm

#define GUESTMM_CHECK(condition)                                              \
  __builtin_expect(static_cast<bool>(condition), 1)                           \
      ? static_cast<void>(0)                                                  \
      : ::guestmm::internal::Voidify() &&                                     \
            ::guestmm::internal::CheckFailure(__FILE__, __LINE__, #condition) \
                .stream()

#endif  // GUESTMM_BASE_CHECK_H_
