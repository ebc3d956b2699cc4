// What QEMU was recorded to send, sent again: each message gets the answer of a
// right back end. The rings are as the guest's driver would have left them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::conversations_test {
namespace {

using Request = VhostUserRequest;
using ::testing::HasSubstr;

constexpr uint32_t kReporting = 2;

// One line of a recording: a message, or its answer.
struct Line {
  bool is_answer = false;
  std::string name;
  bool needs_reply = false;
  int fds = 0;
  uint64_t number = 0;  // of a payload that is one number
  std::map<std::string, std::string> fields = {};

  // REQUIRES: there is such a field (CHECKed).
  uint64_t operator[](const std::string& field) const {
    const auto found = fields.find(field);
    GUESTMM_CHECK(found != fields.end()) << name << " without " << field;
    return ParseNumber(found->second);
  }
  static uint64_t ParseNumber(std::string_view text) {
    const bool is_hex = text.substr(0, 2) == "0x";
    if (is_hex) text.remove_prefix(2);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(
        text.data(), text.data() + text.size(), value, is_hex ? 16 : 10);
    GUESTMM_CHECK(error == std::errc() && end == text.data() + text.size())
        << std::string(text);
    return value;
  }
};

// The bytes of a field such as data=00ff.
std::vector<std::byte> Bytes(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(
        static_cast<std::byte>(Line::ParseNumber("0x" + hex.substr(i, 2))));
  }
  return bytes;
}

// nullopt for lines that say something else.
std::optional<Line> ParseLine(const std::string& text) {
  const std::vector<std::string> words =
      absl::StrSplit(text, ' ', absl::SkipWhitespace());
  if (words.size() < 4 || (words[2] != "F>B" && words[2] != "B>F") ||
      words.back() == "(swallowed)") {
    return std::nullopt;
  }
  Line line = {.is_answer = words[2] == "B>F", .name = words[3]};
  for (size_t i = 4; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (words[i] == "NEED_REPLY") {
      line.needs_reply = true;
    } else if (equals == std::string::npos) {
      line.number = Line::ParseNumber(words[i]);
    } else if (words[i].starts_with("fds=")) {
      line.fds = static_cast<int>(Line::ParseNumber(words[i].substr(4)));
    } else if (!line.is_answer || !words[i].starts_with("flags=0x")) {
      line.fields[words[i].substr(0, equals)] = words[i].substr(equals + 1);
    }
  }
  return line;
}

// The sessions of a recording, in order.
std::vector<std::vector<Line>> Read(const std::string& file) {
  std::ifstream in(absl::StrCat(GUESTMM_CONVERSATIONS, "/", file, ".log"));
  GUESTMM_CHECK(in.good()) << file;
  std::vector<std::vector<Line>> sessions;
  std::string session;
  for (std::string text; std::getline(in, text);) {
    const std::string of = text.substr(text.find('#'), 3);
    if (std::exchange(session, of) != of) sessions.emplace_back();
    if (std::optional<Line> line = ParseLine(text)) {
      sessions.back().push_back(*std::move(line));
    }
  }
  return sessions;
}

std::optional<Request> RequestOf(const std::string& name) {
  for (uint32_t number = 0; number < 64; ++number) {
    if (Name(static_cast<Request>(number)) == name) {
      return static_cast<Request>(number);
    }
  }
  return std::nullopt;
}

// The front end, its guest's RAM and its driver, in one session.
class Replay {
 public:
  Replay(ScriptedFrontEnd front, std::span<const Line> lines)
      : front_(std::move(front)), lines_(lines) {}

  void Run() {
    for (at_ = 0; at_ < lines_.size(); ++at_) {
      if (lines_[at_].is_answer) continue;
      SCOPED_TRACE(testing::Message()
                   << "message " << at_ << ", " << lines_[at_].name);
      ASSERT_NO_FATAL_FAILURE(Send(lines_[at_]));
    }
    // All that went unanswered was taken, too.
    EXPECT_TRUE(front_.Ask(Request::kGetFeatures).has_value());
  }
  uint64_t reports() const { return all_reports_; }

 private:
  struct Ring {
    uint16_t size = 0;
    VirtqueueLayout layout;
    uint16_t base = 0;
    std::optional<DriverQueue> queue;
    UniqueFd kick;
    UniqueFd call;
    uint16_t reports = 0;  // since the driver began
  };

  // The recorded answer to the message at at_.
  const Line& Answer() const {
    size_t i = at_;
    do {
      ++i;
      GUESTMM_CHECK(i < lines_.size()) << lines_[at_].name << " not answered";
    } while (!lines_[i].is_answer || lines_[i].name != lines_[at_].name);
    return lines_[i];
  }

  void Send(const Line& line) {
    const std::optional<Request> request = RequestOf(line.name);
    ASSERT_TRUE(request.has_value()) << line.name;
    switch (*request) {
      case Request::kGetFeatures:
      case Request::kGetProtocolFeatures:
      case Request::kGetQueueNum:
      case Request::kGetMaxMemSlots:
        ASSERT_EQ(front_.Ask(*request), Answer().number);
        break;
      case Request::kGetStatus:
        // The recorded back end forgot its status at a stop. Ours is that of
        // the device, which goes on: FEATURES_OK and, once kicked, DRIVER_OK.
        ASSERT_TRUE(front_.Ask(*request).has_value());
        break;
      case Request::kSetOwner:
        front_.SendBytes(*request, {});
        break;
      case Request::kSetProtocolFeatures:
      case Request::kSetStatus:
        front_.Send(*request, line.number);
        break;
      case Request::kSetFeatures:
        features_ = line.number;
        front_.Send(*request, line.number);
        break;
      case Request::kSetBackendReqFd: {
        auto [near, far] = MakeSocketPair();
        backend_ = std::move(near);
        const int fd = far.get();
        ExpectTaken(line, {}, std::span(&fd, 1));
        break;
      }
      case Request::kAddMemReg:
        Share(line);
        break;
      case Request::kGetConfig:
      case Request::kSetConfig:
        Configure(*request, line);
        break;
      default:
        SendOfRing(*request, line);
    }
  }

  void SendOfRing(Request request, const Line& line) {
    const auto index = static_cast<uint32_t>(line["index"]);
    Ring& ring = rings_.at(index);
    const auto state = [&] {
      return VhostUserVringState{.index = index,
                                 .num = static_cast<uint32_t>(line["num"])};
    };
    switch (request) {
      case Request::kSetVringNum:
        ring.size = static_cast<uint16_t>(state().num);
        front_.Send(request, state());
        break;
      case Request::kSetVringBase:
        ring.base = static_cast<uint16_t>(state().num);
        front_.Send(request, state());
        break;
      case Request::kSetVringAddr:
        Place(ring, line);
        front_.Send(request, VhostUserVringAddr{
                                 .index = index,
                                 .flags = static_cast<uint32_t>(line["flags"]),
                                 .descriptors = line["desc"],
                                 .used = line["used"],
                                 .available = line["avail"],
                                 .log = line["log"]});
        break;
      case Request::kSetVringKick:
        ring.kick = SendEventFd(request, index);
        break;
      case Request::kSetVringCall:
        ring.call = SendEventFd(request, index);
        break;
      case Request::kSetVringErr:
        error_ = SendEventFd(request, index);
        break;
      case Request::kSetVringEnable:
        ExpectTaken(line, BytesOf(state()));
        is_enabled_ = state().num == 1;
        break;
      case Request::kGetVringBase: {
        if (is_enabled_) break;
        front_.Send(request, state());
        const auto reply = front_.Receive();
        ASSERT_TRUE(reply.has_value());
        // Elsewhere the recorded number is not of the ring.
        EXPECT_EQ(reply->As<VhostUserVringState>()->num, ring.reports);
        break;
      }
      default:
        FAIL() << "not expected";
    }
    // QEMU replaces all calls when the device has started: the driver works.
    if (request == Request::kSetVringCall && index == kReporting &&
        is_enabled_) {
      ReportUntilNextStop(ring);
    }
  }

  // Sends the message, and expects that it is taken, as far as one can see.
  void ExpectTaken(const Line& line, std::span<const std::byte> payload,
                   std::span<const int> fds = {}) {
    const Request request = *RequestOf(line.name);
    if (line.needs_reply) {
      ASSERT_EQ(front_.TellBytes(request, payload, fds), absl::StatusCode::kOk);
    } else {
      front_.SendBytes(request, payload, fds);
    }
  }

  UniqueFd SendEventFd(Request request, uint64_t index) {
    UniqueFd event_fd = MakeEventFd();
    const int fd = event_fd.get();
    front_.Send(request, index, std::span(&fd, 1));
    return event_fd;
  }

  void Share(const Line& line) {
    const GpaRange range = {Gpa(line["gpa"]), line["size"]};
    // Sparse.
    const UniqueFd memfd = MakeMemfd(line["off"] + range.bytes);
    ASSERT_TRUE(ram_->AdoptRegion(range, memfd.get(), line["off"]).ok());
    users_[line["uva"]] = range;
    const int fd = memfd.get();
    const VhostUserSingleRegion single = {
        0, {range.gpa.value(), range.bytes, line["uva"], line["off"]}};
    ExpectTaken(line, BytesOf(single), std::span(&fd, 1));
  }
  Gpa ToGuest(uint64_t user) const {
    auto region = users_.upper_bound(user);
    GUESTMM_CHECK(region != users_.begin()) << user;
    --region;
    return region->second.gpa + (user - region->first);
  }

  void Configure(Request request, const Line& line) {
    const VhostUserConfigHeader header = {static_cast<uint32_t>(line["offset"]),
                                          static_cast<uint32_t>(line["size"]),
                                          static_cast<uint32_t>(line["flags"])};
    std::vector<std::byte> payload(BytesOf(header).begin(),
                                   BytesOf(header).end());
    const std::vector<std::byte> data = Bytes(line.fields.at("data"));
    payload.insert(payload.end(), data.begin(), data.end());
    if (request == Request::kSetConfig) {
      poison_ = Line::ParseNumber("0x" +
                                  line.fields.at("data").substr(2 * 12, 2 * 4));
      ExpectTaken(line, payload);
      return;
    }
    front_.SendBytes(request, payload);
    const std::optional<VhostUserMessage> reply = front_.Receive();
    ASSERT_TRUE(reply.has_value());
    // What was written is read, unlike from the recorded back end, which had
    // refused it.
    ASSERT_EQ(reply->payload.size(), payload.size());
    uint32_t poison = 0;
    std::memcpy(&poison, reply->payload.data() + sizeof(header) + 12,
                sizeof(poison));
    EXPECT_EQ(poison, poison_);
  }

  // A ring begins at 0 when a driver has made it, and else goes on.
  void Place(Ring& ring, const Line& line) {
    const VirtqueueLayout layout = {.size = ring.size,
                                    .descriptors = ToGuest(line["desc"]),
                                    .available = ToGuest(line["avail"]),
                                    .used = ToGuest(line["used"])};
    ASSERT_EQ(ring.base != 0, ring.layout == layout && ring.reports != 0);
    ASSERT_EQ(ring.base, ring.base == 0 ? 0 : ring.reports);
    if (ring.base != 0) return;
    ring.layout = layout;
    ring.reports = 0;
    auto queue = DriverQueue::Create(
        *ram_, layout, {.features = ToVirtqueueFeatures(features_)});
    ASSERT_TRUE(queue.ok()) << queue.status();
    ring.queue = *std::move(queue);
  }

  // The driver reports as often as the ring's next base tells.
  void ReportUntilNextStop(Ring& ring) {
    // The call is replaced once this is answered.
    ASSERT_TRUE(front_.Ask(Request::kGetFeatures).has_value());
    constexpr uint16_t kAtLeast = 3;
    auto until = static_cast<uint16_t>(ring.reports + kAtLeast);
    for (size_t i = at_; i < lines_.size(); ++i) {
      if (lines_[i].is_answer && lines_[i].name == "GET_VRING_BASE" &&
          lines_[i]["index"] == kReporting) {
        // Not 61440, which the faulty back end told.
        if (lines_[i]["num"] < 1000) {
          until = static_cast<uint16_t>(lines_[i]["num"]);
        }
        break;
      }
    }
    while (ring.reports < until) ASSERT_NO_FATAL_FAILURE(Report(ring));
  }
  void Report(Ring& ring) {
    const GpaRange page = {Gpa(512 * kMiB) + ring.reports * kPageSize,
                           kPageSize};
    std::byte* const at = ram_->Translate(page)->bytes().data();
    *at = std::byte{0xaa};
    ASSERT_TRUE(ring.queue->Add({}, std::span(&page, 1), 0).ok());
    const uint64_t one = 1;
    if (ring.queue->NeedsKick()) {
      ASSERT_EQ(write(ring.kick.get(), &one, sizeof(one)), 8);
    }
    ++ring.reports;
    ++all_reports_;
    auto used = ring.queue->GetUsed();
    while (used.ok() && !used->has_value()) {
      ASSERT_TRUE(AwaitEvents(ring.call.get(), POLLIN));
      uint64_t calls = 0;
      ASSERT_EQ(read(ring.call.get(), &calls, sizeof(calls)), 8);
      used = ring.queue->GetUsed();
    }
    ASSERT_TRUE(used.ok()) << used.status();
    EXPECT_EQ(*at, std::byte{poison_ != 0 ? uint8_t{0xaa} : uint8_t{0}});
  }

  ScriptedFrontEnd front_;
  const std::span<const Line> lines_;
  size_t at_ = 0;
  const std::unique_ptr<GuestRam> ram_ = GuestRam::CreateForeign().value();
  std::map<uint64_t, GpaRange> users_;  // by user address
  uint64_t features_ = 0;
  uint64_t poison_ = 0;
  UniqueFd backend_;
  UniqueFd error_;
  bool is_enabled_ = false;
  std::array<Ring, 3> rings_;
  uint64_t all_reports_ = 0;
};

class ConversationTest : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(, ConversationTest,
                         ::testing::Values("qemu-start-pause-hotplug-rebind",
                                           "qemu-unbind-rebind-x3",
                                           "qemu-page-poison",
                                           "qemu-guest-reboot", "qemu-killed"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(ConversationTest, EachMessageIsAnsweredRightly) {
  Ends ends;
  BalloonFactory balloons(
      {.features = kBalloonFPageReporting | kBalloonFPagePoison,
       .reporting_queue_size = 64});
  VhostUserServer server(
      balloons.maker(),
      {.max_regions = 128, .on_end = [&](const auto& info, const auto& why) {
         ends.Add(info, why);
       }});
  const std::vector<std::vector<Line>> sessions = Read(GetParam());
  ASSERT_FALSE(sessions.empty());
  uint64_t reports = 0;
  for (const std::vector<Line>& lines : sessions) {
    ASSERT_GT(lines.size(), 40u);
    auto [near, far] = MakeSocketPair();
    ASSERT_TRUE(server.Serve(std::move(far)).ok());
    {
      Replay replay(ScriptedFrontEnd(std::move(near)), lines);
      ASSERT_NO_FATAL_FAILURE(replay.Run());
      reports += replay.reports();
    }
    EXPECT_THAT(ends.Next().second, HasSubstr("closed the connection"));
  }
  EXPECT_EQ(server.counters().refused, 0u);
  const bool has_poison = std::string(GetParam()) == "qemu-page-poison";
  EXPECT_EQ(balloons.discards().reports, has_poison ? 0 : reports);
  EXPECT_GE(reports, 3u);
}

}  // namespace
}  // namespace guestmm::conversations_test
