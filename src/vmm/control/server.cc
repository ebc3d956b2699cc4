#include "guestmm/vmm/control/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cerrno>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/vmm/metrics.h"
#include "src/vmm/control/answer.h"

namespace guestmm {
namespace {

std::string HttpReply(const std::string& status, const std::string& body) {
  return absl::StrCat("HTTP/1.0 ", status,
                      "\r\nContent-Type: text/plain; version=0.0.4\r\n"
                      "Content-Length: ",
                      body.size(), "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

struct ControlServer::Client {
  UniqueFd fd;
  std::string in;   // received and not handled
  std::string out;  // to send
  // The first line of a request by HTTP, whose headers are still to come.
  std::string http;
  bool is_ending = false;  // after `out` was sent
};

ControlServer::ControlServer(Vmm& vmm, ControlServerOptions options)
    : vmm_(vmm), options_(options) {}

ControlServer::~ControlServer() {
  if (!thread_.joinable()) return;
  stop_ = true;
  wake_.Wake();
  thread_.join();
}

absl::Status ControlServer::Listen(const std::string& path) {
  GUESTMM_CHECK(!thread_.joinable()) << "Listen called again";
  if (!wake_.valid()) return absl::UnavailableError("eventfd: failed");
  absl::StatusOr<UnixListener> listener =
      UnixListener::Listen(path, options_.socket);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error& error) {
    return absl::UnavailableError(
        absl::StrCat("no thread for ", path, ": ", error.what()));
  }
  return absl::OkStatus();
}

void ControlServer::Run() {
  int pause = -1;
  while (!stop_) {
    std::vector<pollfd> polled = {
        {.fd = wake_.get(), .events = POLLIN, .revents = 0},
        {.fd = pause < 0 ? listener_.fd() : -1,
         .events = POLLIN,
         .revents = 0}};
    for (const Client& client : clients_) {
      const auto events =
          static_cast<short>(client.out.empty() ? POLLIN : POLLOUT);
      polled.push_back({.fd = client.fd.get(), .events = events, .revents = 0});
    }
    if (poll(polled.data(), polled.size(), pause) < 0) continue;
    pause = -1;
    auto client = clients_.begin();
    const size_t count = clients_.size();
    for (size_t i = 0; i < count; ++i) {
      const auto next = std::next(client);
      if (polled[2 + i].revents != 0) {
        const bool lives =
            client->out.empty() ? Receive(*client) : Send(*client);
        if (!lives) {
          clients_.erase(client);
        } else {
          clients_.splice(clients_.end(), clients_, client);
        }
      }
      client = next;
    }
    if ((polled[1].revents & POLLIN) != 0 && !Accept()) {
      pause = static_cast<int>(UnixListener::kAcceptPause.count());
    }
  }
  clients_.clear();
}

bool ControlServer::Accept() {
  absl::StatusOr<UniqueFd> fd = listener_.Accept();
  if (!fd.ok()) return !absl::IsResourceExhausted(fd.status());
  if (clients_.size() >= options_.max_clients) clients_.pop_front();
  clients_.emplace_back().fd = *std::move(fd);
  return true;
}

bool ControlServer::Receive(Client& client) {
  std::array<char, 4096> piece;
  const ssize_t got = recv(client.fd.get(), piece.data(), piece.size(), 0);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  client.in.append(piece.data(), static_cast<size_t>(got));
  HandleLines(client);
  return true;
}

bool ControlServer::Send(Client& client) {
  const ssize_t sent =
      send(client.fd.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN || errno == EINTR;
  client.out.erase(0, static_cast<size_t>(sent));
  if (!client.out.empty()) return true;
  HandleLines(client);
  return !client.is_ending || !client.out.empty();
}

void ControlServer::HandleLines(Client& client) {
  while (client.out.empty() && !client.is_ending) {
    const size_t end = client.in.find('\n');
    if (end == std::string::npos || end > options_.max_line) {
      if (client.in.size() <= options_.max_line) return;
      client.out = absl::StrFormat(
          "{\"ok\":false,\"error\":\"line: must be at most %d bytes\"}\n",
          options_.max_line);
      client.is_ending = true;
      return;
    }
    std::string line = client.in.substr(0, end);
    client.in.erase(0, end + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    HandleLine(client, line);
  }
}

void ControlServer::HandleLine(Client& client, const std::string& line) {
  if (!client.http.empty()) {
    if (!line.empty()) return;
    client.is_ending = true;
    client.out = absl::StartsWith(client.http, "GET /metrics ")
                     ? HttpReply("200 OK", FormatMetrics(vmm_))
                     : HttpReply("404 Not Found", "must be /metrics\n");
    return;
  }
  if (absl::StartsWith(line, "GET ")) {
    client.http = line;
  } else if (!line.empty()) {
    client.out = AnswerControl(vmm_, line) + "\n";
  }
}

}  // namespace guestmm
