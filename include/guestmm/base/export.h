#ifndef GUESTMM_BASE_EXPORT_H_
#define GUESTMM_BASE_EXPORT_H_

// Opens the namespace of a public header. gcc hides whatever is declared in no
// such namespace: a shared library exports what the public headers declare, and
// no more. clang would also hide the functions whose definitions are in a
// namespace without the attribute, so its libraries export everything.
//
//   namespace GUESTMM_EXPORT guestmm {
#define GUESTMM_EXPORT [[gnu::visibility("default")]]

#endif  // GUESTMM_BASE_EXPORT_H_
