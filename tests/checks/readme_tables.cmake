# cmake -D ROOT=DIR -D GUESTMM=PROGRAM -P readme_tables.cmake: fails unless the README's
# tables of replay and compare are exactly what the program prints.

cmake_minimum_required(VERSION 3.25)

file(READ ${ROOT}/README.md readme)

# shows(ARGUMENT...): fails unless the README has everything that `guestmm ARGUMENT...`
# prints, except the first paragraph of compare, which has the options.
function(shows)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env --unset=COLUMNS ${GUESTMM} ${ARGN}
    WORKING_DIRECTORY ${ROOT}
    RESULT_VARIABLE status
    OUTPUT_VARIABLE output
    TIMEOUT 60)
  string(REGEX REPLACE "^compare: ([^\n]+\n)+\n" "" output "${output}")
  string(FIND "${readme}" "${output}" at)
  if(NOT status EQUAL 0 OR at EQUAL -1)
    message(SEND_ERROR "README.md does not have what `guestmm ${ARGN}` prints (status ${status}):\n${output}")
  endif()
endfunction()

shows(replay data/churn612 --truth)
shows(compare --workloads build)
shows(compare --workloads data/procs --policies v12,linux,adaptive)
