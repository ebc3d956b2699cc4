# The libraries that guestmm depends on. Installed packages are used if found
# (Debian's are recent enough); otherwise the pinned source is fetched.

include(FetchContent)

# A function, so that variables set for a fetched project do not leak.
function(guestmm_dependency name url sha256)
  # Abseil's types depend on the language version, so it is built with ours.
  set(CMAKE_CXX_STANDARD 20)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  # A fetched project may set older policies; its option() calls must still honour
  # the variables below.
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  set(BUILD_TESTING OFF)
  # Our package refers to Abseil's targets, so Abseil is installed with it.
  set(ABSL_ENABLE_INSTALL ${GUESTMM_INSTALL})
  set(ABSL_PROPAGATE_CXX_STD ON)
  # The others are not part of the installed library.
  set(INSTALL_GTEST OFF)
  set(JSON_Install OFF)
  set(JSON_BuildTests OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(CLI11_INSTALL OFF)
  set(CLI11_BUILD_DOCS OFF)
  set(CLI11_BUILD_TESTS OFF)
  set(CLI11_BUILD_EXAMPLES OFF)
  FetchContent_Declare(
    ${name}
    URL https://github.com/${url}
    URL_HASH SHA256=${sha256}
    SYSTEM
    FIND_PACKAGE_ARGS)
  FetchContent_MakeAvailable(${name})
endfunction()

find_package(Threads REQUIRED)
# For compressed traces. Available on every system, so not fetched.
list(APPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})
find_package(ZLIB REQUIRED)
find_package(Zstd REQUIRED)

guestmm_dependency(
  absl abseil/abseil-cpp/releases/download/20240722.0/abseil-cpp-20240722.0.tar.gz
  f50e5ac311a81382da7fa75b97310e4b9006474f9560ac46f54a9967f07d4ae3)

guestmm_dependency(
  nlohmann_json nlohmann/json/releases/download/v3.11.3/json.tar.xz
  d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)

if(GUESTMM_BUILD_TOOLS)
  guestmm_dependency(
    CLI11 CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
    f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
endif()

if(GUESTMM_BUILD_TESTS)
  guestmm_dependency(
    GTest google/googletest/releases/download/v1.15.2/googletest-1.15.2.tar.gz
    7b42b4d6ed48810c5362c265a17faebe90dc2373c885e5216439d37927f02926)
endif()

if(GUESTMM_BUILD_BENCH)
  guestmm_dependency(
    benchmark google/benchmark/archive/refs/tags/v1.8.5.tar.gz
    d26789a2b46d8808a48a4556ee58ccc7c497fcd4c0af9b90197674a81e04798a)
endif()
