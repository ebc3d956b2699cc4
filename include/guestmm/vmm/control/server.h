#ifndef GUESTMM_VMM_CONTROL_SERVER_H_
#define GUESTMM_VMM_CONTROL_SERVER_H_

#include <atomic>
#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/unix_listener.h"
#include "guestmm/base/wake_fd.h"
#include "guestmm/vmm/vmm.h"

namespace GUESTMM_EXPORT guestmm {

struct ControlServerOptions {
  // Of one more, the client that has been idle longest is disconnected.
  size_t max_clients = 16;
  // In bytes. A longer line gets an error, and its client is disconnected.
  size_t max_line = size_t{64} * 1024;
  UnixListenerOptions socket = {};
};

// The control socket of a VMM, on a thread of its own. Each line that a client
// sends is a request (request.h), answered by a line, in order. `GET /metrics`
// of HTTP is answered too, for scrapers of Prometheus's format.
//
// Clients are trusted to control the guests, but not to behave: what they send
// is bounded, and a client's next request is read once it has read the last
// reply, so that a slow reader delays only itself.
class ControlServer {
 public:
  // `vmm` must outlive this.
  explicit ControlServer(Vmm& vmm, ControlServerOptions options = {});
  // Disconnects all clients and removes the socket.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Serves at `path` from now on. Errors of UnixListener::Listen, and
  // Unavailable if the host has no thread left. REQUIRES: called at most once.
  absl::Status Listen(const std::string& path);

 private:
  struct Client;

  void Run();
  // False if this process has no file descriptors left.
  bool Accept();
  // False if the client is to be disconnected.
  bool Receive(Client& client);
  bool Send(Client& client);
  // Handles lines that have arrived in full, until one has a reply.
  void HandleLines(Client& client);
  void HandleLine(Client& client, const std::string& line);

  Vmm& vmm_;
  const ControlServerOptions options_;
  const WakeFd wake_;
  UnixListener listener_;
  std::atomic<bool> stop_{false};
  // Of the thread: the most recently active client last.
  std::list<Client> clients_;
  std::thread thread_;
};

}  // namespace guestmm

#endif  // GUESTMM_VMM_CONTROL_SERVER_H_
