#include "guestmm/vmm/control/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/vmm/control/client.h"
#include "tests/testing/await.h"
#include "tests/testing/unix_socket.h"
#include "tests/virtio/virtio_testing.h"
#include "tests/vmm/vmm_testing.h"

namespace guestmm::server_test {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::StartsWith;

// A client that sends anything.
class RawClient {
 public:
  explicit RawClient(const std::string& path)
      : fd_(UnixSocketAfter(connect, path)) {
    EXPECT_TRUE(fd_.valid());
  }
  void Send(const std::string& text) const {
    EXPECT_EQ(send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // Sends without waiting, as much as there is room for.
  size_t Push(const std::string& text) const {
    const ssize_t sent =
        send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? 0 : static_cast<size_t>(sent);
  }
  // The next line; what there is at the end of the connection.
  std::string Line() {
    std::string line;
    char c = 0;
    while (recv(fd_.get(), &c, 1, 0) == 1 && c != '\n') line += c;
    return line;
  }
  // All until the end of the connection.
  std::string Rest() {
    std::string text;
    std::array<char, 4096> piece;
    for (ssize_t got = 1; got > 0;) {
      got = recv(fd_.get(), piece.data(), piece.size(), 0);
      if (got > 0) text.append(piece.data(), static_cast<size_t>(got));
    }
    return text;
  }

 private:
  UniqueFd fd_;
};

class ControlServerTest : public VmmWorld {
 protected:
  void SetUp() override { ASSERT_EQ(server_.Listen(path()), absl::OkStatus()); }
  std::string path() const { return sockets_.path("control"); }
  // The reply to a request, as JSON.
  std::string Ask(const ControlRequest& request) const {
    const auto reply = AskControl(path(), request);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.value_or("");
  }

  ControlServer server_{vmm_, {.max_clients = 4, .max_line = 100}};
};

TEST_F(ControlServerTest, AnswersEachLineInOrder) {
  RawClient client(path());
  client.Send("{\"command\":\"hold\"}\n\n{\"command\":\"nope\"}\r\n{\"comm");
  EXPECT_EQ(client.Line(), R"({"ok":true,"guests":[]})");
  EXPECT_THAT(client.Line(),
              StartsWith(R"({"ok":false,"error":"command: must be one of )"));
  client.Send("and\":\"resume\"}\n");
  EXPECT_EQ(client.Line(), R"({"ok":true,"guests":[]})");
}

TEST_F(ControlServerTest, TellsAndSetsWhatGuestsHave) {
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(
      Ask({.command = "target", .guest = 1, .bytes = 4 * kMiB}),
      StartsWith(
          R"({"ok":true,"guests":[{"guest":1,"target_bytes":4194304,"actual_)"));
  EXPECT_TRUE(Await([&] { return Look(1).balloon.actual_bytes == 4 * kMiB; }));
  EXPECT_EQ(Ask({.command = "hold"}),
            R"({"ok":true,"guests":[{"guest":1,"holds_discards":true}]})");
  EXPECT_EQ(Ask({.command = "resume", .guest = 1}),
            R"({"ok":true,"guests":[{"guest":1,"holds_discards":false}]})");
  EXPECT_EQ(
      Ask({.command = "rate", .guest = 1, .bytes = kGiB}),
      R"({"ok":true,"guests":[{"guest":1,"max_discard_rate":1073741824}]})");
  EXPECT_THAT(Ask({.command = "hint", .action = "start"}),
              HasSubstr(R"("hinting":)"));
  EXPECT_TRUE(Await([&] {
    return testing::Value(Ask({.command = "hint", .action = "progress"}),
                          HasSubstr(R"("hinting":false)"));
  }));
  EXPECT_THAT(Ask({.command = "statistics", .interval = 60, .request = true}),
              HasSubstr(R"("interval":60.0,"free_bytes":)"));
  EXPECT_EQ(Look(1).balloon.statistics_interval, std::chrono::minutes(1));
  const std::string status = Ask({.command = "status"});
  for (
      const char* const part :
      {R"({"ok":true,"offered":"reporting,hinting,balloon,statistics,poison",)",
       R"("refused_connections":0)", R"("all":{"requests":)", R"("reports":)",
       R"("skipped_tables":{"size":0,)", R"("statistics":{"free_bytes":)",
       R"("accepted":"reporting,hinting,)"}) {
    EXPECT_THAT(status, HasSubstr(part));
  }
}

TEST_F(ControlServerTest, ErrorsNameTheCommandAndTheGuest) {
  EXPECT_EQ(Ask({.command = "target", .guest = 7, .bytes = 0}),
            R"({"ok":false,"error":"target: guest 7: must be connected"})");
  EXPECT_EQ(Ask({.command = "status", .guest = 7}),
            R"({"ok":false,"error":"status: guest 7: must be connected"})");
  EXPECT_EQ(
      Ask({.command = "target", .bytes = 1}),
      R"({"ok":false,"error":"target: 1: must be a multiple of 4096, below 16 TiB"})");
}

TEST_F(ControlServerTest, ALineHasABound) {
  RawClient client(path());
  client.Send(std::string(99, 'x') + "\n");
  EXPECT_THAT(client.Line(), HasSubstr("line: must be one JSON object"));
  client.Send(std::string(101, 'x'));
  EXPECT_EQ(client.Rest(),
            "{\"ok\":false,\"error\":\"line: must be at most 100 bytes\"}\n");
}

// No further line is read from a client that does not take its replies, so it
// cannot send without end.
TEST_F(ControlServerTest, AClientThatDoesNotReadIsNotReadEither) {
  const RawClient client(path());
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "{\"command\":\"metrics\"}\n";
  size_t pushed = 0;
  RawClient other(path());
  // Each exchange lets the server do what it does for the first client.
  const auto exchange = [&] {
    other.Send("{\"command\":\"hold\"}\n");
    EXPECT_EQ(other.Line(), R"({"ok":true,"guests":[]})");
  };
  int full = 0;
  while (full < 100 && pushed < 100 * kMiB) {
    const size_t more = client.Push(lines);
    pushed += more;
    full = more == 0 ? full + 1 : 0;
    exchange();
  }
  EXPECT_LT(pushed, 10 * kMiB);
}

TEST_F(ControlServerTest, TheClientThatWasIdleLongestMakesRoom) {
  RawClient first(path());
  std::array<std::unique_ptr<RawClient>, 3> others;
  for (auto& other : others) {
    other = std::make_unique<RawClient>(path());
    other->Send("{\"command\":\"hold\"}\n");
    EXPECT_EQ(other->Line(), R"({"ok":true,"guests":[]})");
  }
  first.Send("{\"command\":\"hold\"}\n");
  EXPECT_EQ(first.Line(), R"({"ok":true,"guests":[]})");
  RawClient last(path());
  last.Send("{\"command\":\"resume\"}\n");
  EXPECT_EQ(last.Line(), R"({"ok":true,"guests":[]})");
  EXPECT_EQ(others[0]->Rest(), "");
  first.Send("{\"command\":\"resume\"}\n");
  EXPECT_EQ(first.Line(), R"({"ok":true,"guests":[]})");
}

TEST_F(ControlServerTest, MetricsComeByHttpToo) {
  RawClient client(path());
  client.Send("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n");
  const std::string reply = client.Rest();
  EXPECT_THAT(reply, StartsWith("HTTP/1.0 200 OK\r\nContent-Type: text/plain; "
                                "version=0.0.4\r\nContent-Length: "));
  EXPECT_THAT(reply, HasSubstr("\r\n\r\n# HELP guestmm_vmm_guests "));
  EXPECT_THAT(reply, EndsWith("\n"));
  RawClient other(path());
  other.Send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_THAT(other.Rest(), StartsWith("HTTP/1.0 404 Not Found\r\n"));
}

TEST_F(ControlServerTest, OnlyItsUserMayConnect) {
  struct stat file = {};
  ASSERT_EQ(stat(path().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(ControlServerTest, RemovesItsSocketAndDisconnects) {
  auto server = std::make_unique<ControlServer>(vmm_);
  const std::string path = sockets_.path("second");
  ASSERT_EQ(server->Listen(path), absl::OkStatus());
  RawClient client(path);
  client.Send("{\"command\":\"hold\"}\n");
  EXPECT_EQ(client.Line(), R"({"ok":true,"guests":[]})");
  server.reset();
  EXPECT_EQ(client.Rest(), "");
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THAT(Message(AskControl(path, {.command = "status"}).status()),
              StartsWith(path + ": connect failed: "));
}

TEST_F(ControlServerTest, RefusesASocketThatIsInUse) {
  ControlServer second(vmm_);
  EXPECT_TRUE(absl::IsAlreadyExists(second.Listen(path())));
}

// --- Replies as people read them.

TEST(ControlReplyTest, HasARowForEachGuest) {
  const auto reply = ParseControlReply(
      R"({"ok":true,"refused_connections":2,"all":{"x":1},"guests":[)"
      R"({"guest":1,"free_bytes":1048576,"hinting":true,"x":{"y":1,"z":0}},)"
      R"({"guest":2,"max_discard_rate":0,"hinting":false},)"
      R"({"guest":3,"max_discard_rate":2048,"interval":0.5}]})");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_THAT(reply->values, ElementsAre(Pair("refused connections", "2")));
  // Of counters, those that are not 0.
  EXPECT_THAT(reply->headings, ElementsAre("guest", "free", "hinting", "y",
                                           "max discard rate", "interval"));
  EXPECT_THAT(
      reply->rows,
      ElementsAre(ElementsAre("1", "1.00 MiB", "yes", "1", "-", "-"),
                  ElementsAre("2", "-", "no", "-", "no limit", "-"),
                  ElementsAre("3", "-", "-", "-", "2.00 KiB/s", "0.5")));
}

TEST(ControlReplyTest, TellsErrors) {
  EXPECT_EQ(
      Message(ParseControlReply(R"({"ok":false,"error":"x: y"})").status()),
      "x: y");
  for (const char* const line :
       {"", "[]", "{}", R"({"ok":7})", R"({"ok":false,"error":7})",
        R"({"ok":true,"guests":[7]})"}) {
    // Nothing crashes.
    [[maybe_unused]] const auto reply = ParseControlReply(line);
  }
  EXPECT_TRUE(absl::IsInternal(ParseControlReply("{}").status()));
}

}  // namespace
}  // namespace guestmm::server_test
