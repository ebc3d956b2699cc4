#ifndef GUESTMM_SRC_VMM_CONTROL_ANSWER_H_
#define GUESTMM_SRC_VMM_CONTROL_ANSWER_H_

#include <string>
#include <string_view>

#include "guestmm/vmm/vmm.h"

namespace guestmm {

// Does what the line of a control socket requests, and returns the reply's
// line, without its end: {"ok": true, …} or {"ok": false, "error": "…"}.
std::string AnswerControl(Vmm& vmm, std::string_view line);

}  // namespace guestmm

#endif  // GUESTMM_SRC_VMM_CONTROL_ANSWER_H_
