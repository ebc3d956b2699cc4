// Decodes the input to a world and a program, and compares each step with the
// model.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "guestmm/base/check.h"
#include "tests/testing/buddy_program.h"
#include "tests/testing/buddy_run.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size) {
  using guestmm::buddy::BuddyWorld;
  if (size == 0) return 0;
  const std::vector<const BuddyWorld*> worlds =
      guestmm::buddy::AllBuddyWorlds();
  const std::string wrong = guestmm::buddy::RunBuddyProgram(
      *worlds[data[0] % worlds.size()],
      guestmm::buddy::ProgramFromBytes(std::span(data, size).subspan(1)));
  GUESTMM_CHECK(wrong.empty()) << wrong;
  return 0;
}
