#ifndef GUESTMM_VMM_VMM_H_
#define GUESTMM_VMM_VMM_H_

#include <memory>

#include "guestmm/virtio/vhost_user/back_end/server.h"

namespace guestmm {

// Makes this process the VMM of guests in other ones
// (GuestOptions::vmm_socket): a server of balloon devices, with queues as large
// as those guests ask for, to be told where to listen. For a program to call:
// it raises the limit of file descriptors as far as it may, by which it chooses
// how many guests there may be, and installs GuardAgainstForeignFaults.
std::unique_ptr<VhostUserServer> MakeVmm(
    decltype(VhostUserServerOptions::on_begin) on_begin = {},
    decltype(VhostUserServerOptions::on_end) on_end = {});

}  // namespace guestmm

#endif  // GUESTMM_VMM_VMM_H_
