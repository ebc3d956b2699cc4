# cmake -D OUTPUT=FILE.cc -D HEADER=NAME.h -D "FUNCTIONS=Function=FILE;..." -P EmbedText.cmake
#
# Writes FILE.cc with one function in namespace guestmm per file, which returns the
# file's text as std::string_view; empty if FILE is empty. HEADER declares them.
#
# The text is an array of bytes, since a script may exceed the maximum length of a
# string literal.

cmake_minimum_required(VERSION 3.25)

set(code "#include \"${HEADER}\"\n\nnamespace guestmm {\n")
foreach(pair IN LISTS FUNCTIONS)
  string(REGEX MATCH "^([^=]+)=(.*)$" pair "${pair}")
  set(function ${CMAKE_MATCH_1})
  set(file "${CMAKE_MATCH_2}")
  if(file STREQUAL "")
    string(APPEND code "std::string_view ${function}() { return {}; }\n")
    continue()
  endif()
  file(READ "${file}" bytes HEX)
  file(SIZE "${file}" size)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(REPLACE "0x0a," "0x0a,\n" bytes "${bytes}")
  string(APPEND code "std::string_view ${function}() {\n"
                     "  static constexpr unsigned char kText[] = {\n${bytes}0};\n"
                     "  return {reinterpret_cast<const char*>(kText), ${size}};\n}\n")
endforeach()
string(APPEND code "}  // namespace guestmm\n")
file(WRITE "${OUTPUT}" "${code}")
