#ifndef GUESTMM_TOOLS_GUESTMM_STANDARD_STREAMS_H_
#define GUESTMM_TOOLS_GUESTMM_STANDARD_STREAMS_H_

#include <array>
#include <streambuf>
#include <string>

namespace guestmm::tools {

// Opens /dev/null for reading at those of the file descriptors 0, 1 and 2 that
// are closed: no file, socket or guest's memory becomes a standard stream, and
// writing to it is an error as before.
void OpenStandardStreams();

// True if this one of them, 0, 1 or 2, was closed.
bool WasClosed(int fd);

// Prints the error of output that was lost.
void TellLostOutput(const std::string& why);

// What std::cout writes to while this lives: standard output, through a buffer
// that remembers why a write failed. std::cout takes nothing after that, until
// it is cleared.
class StandardOutput final : public std::streambuf {
 public:
  StandardOutput();
  // Does not flush.
  ~StandardOutput() override;
  StandardOutput(const StandardOutput&) = delete;
  StandardOutput& operator=(const StandardOutput&) = delete;

  // Writes what is in the buffer. Returns the errno of the first write that
  // failed, now or before, or 0.
  int Finish();

 protected:
  int_type overflow(int_type c) override;
  int sync() override;

 private:
  std::streambuf* const before_;
  int error_ = 0;
  std::array<char, 65536> buffer_;
};

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_STANDARD_STREAMS_H_
