// guestmm: the command line of the library's experiments.

#include "tools/guestmm/guestmm_main.h"

int main(int argc, char** argv) {
  return guestmm::tools::GuestmmMain(argc, argv);
}
