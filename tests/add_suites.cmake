# Registers the test suites of PROGRAM with ctest, each as one test that is labelled
# LABEL and has TIMEOUT seconds. Included by ctest itself: the program may be built, or
# change, after CMake has run.
#
# A suite, not a test: starting thousands of processes takes longer than what they do.
# The name of a test that fails is in the suite's output.
if(NOT EXISTS "${PROGRAM}")
  add_test("${PROGRAM}_NOT_BUILT" NOT_BUILT)
  set_tests_properties("${PROGRAM}_NOT_BUILT" PROPERTIES LABELS "${LABEL}")
  return()
endif()
execute_process(
  COMMAND "${PROGRAM}" --gtest_list_tests
  OUTPUT_VARIABLE listed
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM}: could not list its tests: ${result}\n${listed}")
endif()
# A suite's line is not indented, and ends with a period and perhaps its type.
string(REGEX MATCHALL "(^|\n)[A-Za-z_][A-Za-z0-9_/]*\\." lines "${listed}")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "^\n|\\.$" "" suite "${line}")
  add_test("${suite}" "${PROGRAM}" "--gtest_filter=${suite}.*" --gtest_color=no)
  # Skipped only if nothing failed: of what a suite prints at its end, nothing follows the
  # tests that were skipped.
  set_tests_properties(
    "${suite}"
    PROPERTIES LABELS
               "${LABEL}"
               TIMEOUT
               "${TIMEOUT}"
               WORKING_DIRECTORY
               "${WORKING_DIRECTORY}"
               SKIP_REGULAR_EXPRESSION
               "\\[  PASSED  \\][^[=]*\\[  SKIPPED \\][^[=]*(\\[  SKIPPED \\][^[=]*)*$")
endforeach()
