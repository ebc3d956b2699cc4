// guestmm: the command line of the library's experiments.

#include "guestmm/commands/guestmm_main.h"

int main(int argc, char** argv) {
  return guestmm::tools::GuestmmMain(argc, argv);
}
