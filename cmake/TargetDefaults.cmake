# guestmm_target_defaults(target): the compiler options of all our targets.
#
# All are private to the target, so they do not affect projects that use guestmm.

set(guestmm_is_clang $<CXX_COMPILER_ID:Clang,AppleClang>)

if(GUESTMM_BUILD_FUZZERS AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "GUESTMM_BUILD_FUZZERS needs clang, not ${CMAKE_CXX_COMPILER_ID}")
endif()

function(guestmm_target_defaults target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  # For #include "src/…" and "tests/testing/…".
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})

  target_compile_options(
    ${target}
    PRIVATE -Wall
            -Wextra
            -Wpedantic
            -Wshadow
            -Wnon-virtual-dtor
            -Wold-style-cast
            $<${guestmm_is_clang}:-Wthread-safety>
            $<$<BOOL:${GUESTMM_WERROR}>:-Werror>)

  if(GUESTMM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${GUESTMM_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer)
    target_compile_definitions(${target} PRIVATE GUESTMM_SANITIZED)
    target_link_options(${target} PRIVATE -fsanitize=${GUESTMM_SANITIZE})
  endif()
  if(GUESTMM_BUILD_FUZZERS)
    # Coverage feedback for the fuzzer, without libFuzzer's main().
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(GUESTMM_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage)
    target_link_options(${target} PRIVATE --coverage)
  endif()
endfunction()
