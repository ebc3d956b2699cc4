# cmake -D ROOT=DIR -P listed.cmake: fails if a .cc file is missing from the
# CMakeLists.txt beside it.
#
# Lists are explicit, and a test that is not listed would never run.

cmake_minimum_required(VERSION 3.25)

file(GLOB_RECURSE sources RELATIVE ${ROOT} ${ROOT}/src/*.cc ${ROOT}/tests/*.cc ${ROOT}/bench/*.cc ${ROOT}/tools/*.cc)
foreach(file IN LISTS sources)
  cmake_path(GET file PARENT_PATH folder)
  cmake_path(GET file FILENAME name)
  set(lists ${ROOT}/${folder}/CMakeLists.txt)
  set(text "")
  if(EXISTS ${lists})
    file(STRINGS ${lists} lines)
    list(FILTER lines EXCLUDE REGEX "^[ \t]*#")
    string(JOIN " " text ${lines})
  endif()
  string(REPLACE "." "\\." name_regex ${name})
  if(NOT text MATCHES "(^|[ \t(])${name_regex}([ \t)]|$)")
    message(SEND_ERROR "${folder}/CMakeLists.txt does not list ${name}")
  endif()
endforeach()
