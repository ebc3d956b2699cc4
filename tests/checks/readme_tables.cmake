# cmake -D ROOT=DIR -D GUESTMM=PROGRAM -P readme_tables.cmake: fails unless the README's
# tables of the recording in data/ are what the program prints.

cmake_minimum_required(VERSION 3.25)

file(READ ${ROOT}/README.md readme)

# shows(ARGUMENT...): the README has all that this prints, but for the first line of
# compare, which is of no recording.
function(shows)
  execute_process(
    COMMAND ${GUESTMM} ${ARGN}
    WORKING_DIRECTORY ${ROOT}
    RESULT_VARIABLE status
    OUTPUT_VARIABLE output
    TIMEOUT 60)
  string(REGEX REPLACE "^compare: [^\n]*\n\n" "" output "${output}")
  string(FIND "${readme}" "${output}" at)
  if(NOT status EQUAL 0 OR at EQUAL -1)
    message(SEND_ERROR "README.md does not have what `guestmm ${ARGN}` prints (status ${status}):\n${output}")
  endif()
endfunction()

shows(replay data/procs --truth)
shows(compare --workloads data/procs --policies v12,linux,adaptive)
