#include "guestmm/vmm/control/request.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/virtio/virtio_testing.h"

namespace guestmm::request_test {
namespace {

std::string Wrong(const std::string& line) {
  return Message(ParseControlRequest(line).status());
}

TEST(ControlRequest, IsTheSameAfterFormatAndParse) {
  for (const ControlRequest& request :
       {ControlRequest{.command = "status"},
        ControlRequest{.command = "target", .guest = 3, .bytes = 0},
        ControlRequest{.command = "hint", .action = "progress"},
        ControlRequest{.command = "statistics", .interval = 0.5},
        ControlRequest{.command = "statistics", .guest = 1, .request = true},
        ControlRequest{.command = "rate", .bytes = ~uint64_t{0}},
        ControlRequest{.command = "metrics"}}) {
    const auto parsed = ParseControlRequest(FormatControlRequest(request));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, request) << request.command;
  }
}

TEST(ControlRequest, NamesWhatIsWrong) {
  for (const char* const line :
       {"", "x", "[]", "7", "null", "{", R"({"command":"status"} x)",
        "{\"command\":\"\xff\"}"}) {
    EXPECT_EQ(Wrong(line), "line: must be one JSON object") << line;
  }
  for (const char* const line :
       {"{}", R"({"command":"stat"})", R"({"command":7})"}) {
    EXPECT_EQ(Wrong(line),
              "command: must be one of status, target, hint, statistics, hold, "
              "resume, rate, metrics")
        << line;
  }
  EXPECT_EQ(Wrong(R"({"command":"status","bytes":1})"),
            "status: bytes: must be one of guest");
  EXPECT_EQ(Wrong(R"({"command":"metrics","guest":1})"),
            "metrics: guest: must be left out");
  EXPECT_EQ(Wrong(R"({"command":"target"})"), "target: bytes: must be given");
  for (const char* const value : {"-1", "1.5", "\"1\"", "null", "1e30"}) {
    EXPECT_EQ(
        Wrong(std::string(R"({"command":"target","bytes":)") + value + "}"),
        "target: bytes: must be a whole number")
        << value;
  }
  EXPECT_EQ(Wrong(R"({"command":"hold","guest":"1"})"),
            "hold: guest: must be a whole number");
  EXPECT_EQ(Wrong(R"({"command":"hint","action":"go"})"),
            "hint: action: must be start, stop or progress");
  for (const char* const value : {"-1", "0.01", "86401", "true", "\"1\""}) {
    EXPECT_EQ(Wrong(std::string(R"({"command":"statistics","interval":)") +
                    value + "}"),
              "statistics: interval: must be 0, or 0.1 to 86400 seconds")
        << value;
  }
  EXPECT_EQ(Wrong(R"({"command":"statistics","request":1})"),
            "statistics: request: must be true or false");
}

}  // namespace
}  // namespace guestmm::request_test
