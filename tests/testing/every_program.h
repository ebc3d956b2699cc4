#ifndef GUESTMM_TESTS_TESTING_EVERY_PROGRAM_H_
#define GUESTMM_TESTS_TESTING_EVERY_PROGRAM_H_

// Runs every program up to a given length in a small world, and compares each
// step with the model.
//
// Programs that lead the model to one state have the same future, so
// RunToEveryState continues each state once. That covers all programs of that
// length, provided the allocator has no state that the model lacks.
// RunEveryProgram does not rely on that: it runs every program from the start.

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/buddy_program.h"
#include "tests/testing/buddy_run.h"

namespace guestmm::buddy {

// Makes a new run and applies `program`.
inline std::unique_ptr<BuddyRun> After(const BuddyWorld& world,
                                       const Program& program) {
  auto run = std::make_unique<BuddyRun>(world);
  for (const Operation& operation : program) {
    const std::string wrong = run->Apply(operation);
    EXPECT_EQ(wrong, "") << ToCode(program);
  }
  return run;
}

// Applies each choice after each of `programs`. Returns the longer programs
// that are worth continuing: all, or those that reach a new state.
template <typename IsNew>
std::vector<Program> Extend(const BuddyWorld& world,
                            const std::vector<Program>& programs,
                            IsNew is_new) {
  std::vector<Program> longer;
  for (const Program& program : programs) {
    const std::vector<Operation> choices = After(world, program)->Choices();
    for (const Operation& choice : choices) {
      const std::unique_ptr<BuddyRun> run = After(world, program);
      std::string wrong = run->Apply(choice);
      if (wrong.empty()) wrong = run->Compare();
      Program extended = program;
      extended.push_back(choice);
      if (!wrong.empty()) {
        ADD_FAILURE() << wrong << "\n  " << world.name << ", "
                      << ToCode(extended);
        return {};
      }
      if (is_new(run->model().State())) longer.push_back(std::move(extended));
    }
  }
  return longer;
}

inline void RunEveryProgram(const BuddyWorld& world, int length) {
  std::vector<Program> programs = {{}};
  for (int i = 0; i < length; ++i) {
    programs = Extend(world, programs, [](const std::string&) { return true; });
    ASSERT_FALSE(programs.empty());
  }
}

// Returns the number of states reached.
inline size_t RunToEveryState(const BuddyWorld& world, int length) {
  std::set<std::string> seen = {BuddyRun(world).model().State()};
  std::vector<Program> programs = {{}};
  for (int i = 0; i < length; ++i) {
    programs = Extend(world, programs, [&](const std::string& state) {
      return seen.insert(state).second;
    });
  }
  return seen.size();
}

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_EVERY_PROGRAM_H_
