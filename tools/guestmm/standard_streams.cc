#include "tools/guestmm/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <iostream>
#include <string_view>

#include "guestmm/base/output_file.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

std::array<bool, STDERR_FILENO + 1> was_closed = {};

}  // namespace

void OpenStandardStreams() {
  // open takes the lowest number that is free.
  for (int fd = open("/dev/null", O_RDONLY); fd >= 0;
       fd = open("/dev/null", O_RDONLY)) {
    if (fd > STDERR_FILENO) {
      close(fd);
      return;
    }
    was_closed[static_cast<size_t>(fd)] = true;
  }
}

bool WasClosed(int fd) { return was_closed[static_cast<size_t>(fd)]; }

void TellLostOutput(const std::string& why) {
  TellError("guestmm: standard output: cannot be written: " + why);
}

StandardOutput::StandardOutput() : before_(std::cout.rdbuf(this)) {
  setp(buffer_.begin(), buffer_.end());
}

StandardOutput::~StandardOutput() { std::cout.rdbuf(before_); }

int StandardOutput::Finish() {
  sync();
  return error_;
}

StandardOutput::int_type StandardOutput::overflow(int_type c) {
  if (sync() != 0) return traits_type::eof();
  if (c != traits_type::eof()) sputc(traits_type::to_char_type(c));
  return traits_type::not_eof(c);
}

int StandardOutput::sync() {
  const std::string_view text(pbase(), static_cast<size_t>(pptr() - pbase()));
  setp(buffer_.begin(), buffer_.end());
  const int error = WriteAll(STDOUT_FILENO, text);
  if (error_ == 0) error_ = error;
  return error == 0 ? 0 : -1;
}

}  // namespace guestmm::tools
