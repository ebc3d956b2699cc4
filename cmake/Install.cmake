# The installed package: library, headers, command, CMake config, pkg-config file.

include(CMakePackageConfigHelpers)

install(TARGETS guestmm guestmm_core EXPORT guestmmTargets)
install(DIRECTORY include/guestmm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
if(TARGET guestmm_tool)
  install(TARGETS guestmm_tool)
  install(TARGETS guestmm_commands EXPORT guestmmTargets)
  install(DIRECTORY tools/guestmm/include/guestmm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/guestmm)
configure_package_config_file(cmake/guestmmConfig.cmake.in guestmmConfig.cmake INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(guestmmConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT guestmmTargets NAMESPACE guestmm:: DESTINATION ${config_dir})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/guestmmConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/guestmmConfigVersion.cmake
              cmake/FindZstd.cmake
        DESTINATION ${config_dir})

# pkg-config: absl::status is absl_status there.
list(TRANSFORM GUESTMM_ABSL_PUBLIC REPLACE "absl::" "absl_" OUTPUT_VARIABLE pc_public)
list(TRANSFORM GUESTMM_ABSL_PRIVATE REPLACE "absl::" "absl_" OUTPUT_VARIABLE pc_private)
list(APPEND pc_private libzstd zlib)
if(NOT BUILD_SHARED_LIBS)
  # Users of the static library link its dependencies too, --static or not.
  list(APPEND pc_public ${pc_private})
  set(pc_private "")
endif()
list(JOIN pc_public ", " pc_public)
list(JOIN pc_private ", " pc_private)
# Relative from the .pc file to the prefix, so that the installed tree is relocatable.
file(RELATIVE_PATH pc_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" pc_to_prefix ${pc_to_prefix})
configure_file(cmake/guestmm.pc.in guestmm.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/guestmm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
