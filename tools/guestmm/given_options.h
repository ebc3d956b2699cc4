#ifndef GUESTMM_TOOLS_GUESTMM_GIVEN_OPTIONS_H_
#define GUESTMM_TOOLS_GUESTMM_GIVEN_OPTIONS_H_

// How the options were given, for the errors that a command finds in them.

#include <string>

#include "CLI/CLI.hpp"

namespace guestmm::tools {

// Notes what was typed for each option of `command` that has one value.
void NoteTyped(const CLI::App& command);

// Notes that an option, "--scale", is from a file of options.
void NoteFromFile(const std::string& option, const std::string& file);

// An error as the user can place it. If it is one of an option that was noted,
// it has the value as it was typed, "--memory=0.3g: must be …", and the file in
// front. Any other stays as it is.
std::string AsGiven(const std::string& error);

// `text` without what a terminal might take for a command.
std::string Printable(std::string text);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_GIVEN_OPTIONS_H_
