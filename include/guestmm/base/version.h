#ifndef GUESTMM_BASE_VERSION_H_
#define GUESTMM_BASE_VERSION_H_

// The version of guestmm, by semantic versioning: until 1.0 a minor version may
// change the API and the ABI. CMakeLists.txt reads it from here.
//
//   #if GUESTMM_VERSION_MAJOR == 0 && GUESTMM_VERSION_MINOR < 2

#define GUESTMM_VERSION_MAJOR 0
#define GUESTMM_VERSION_MINOR 1
#define GUESTMM_VERSION_PATCH 0

#define GUESTMM_VERSION_TEXT_OF(major, minor, patch) \
#major "." #minor "." #patch
#define GUESTMM_VERSION_TEXT(major, minor, patch) \
  GUESTMM_VERSION_TEXT_OF(major, minor, patch)

// "0.1.0"
#define GUESTMM_VERSION                                              \
  GUESTMM_VERSION_TEXT(GUESTMM_VERSION_MAJOR, GUESTMM_VERSION_MINOR, \
                       GUESTMM_VERSION_PATCH)

#endif  // GUESTMM_BASE_VERSION_H_
