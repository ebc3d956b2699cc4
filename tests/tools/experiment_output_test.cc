// Where an experiment's results go, and what becomes of them when it is
// interrupted.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/commands/guestmm_main.h"
#include "guestmm/reporting/policies.h"
#include "nlohmann/json.hpp"
#include "tests/testing/planted_policies.h"
#include "tests/tools/command_testing.h"

namespace guestmm::experiment_output_test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class ExperimentOutputTest : public CommandTest {
 protected:
  const std::string density_ =
      "density --scale 0.02 --policies off --max-guests 1 --settle 0 ";
  const std::string compare_ =
      "compare --policies v12 --workloads burst --guest-memory 64MiB --vcpus 1 "
      "--duration 1 --rest 1 ";
};

TEST_F(ExperimentOutputTest, ResultsAreReplacedOnlyByForce) {
  const std::string out = "--out " + Path("out");
  fs::create_directory(Path("out"));
  std::ofstream(Path("out/mine")) << "text";
  EXPECT_EQ(Guestmm(density_ + out).status, 0);
  const Outcome refused = Guestmm(compare_ + out);
  EXPECT_EQ(refused.status, 2);
  EXPECT_EQ(refused.err, "guestmm compare: --out=" + Path("out") +
                             ": must be a folder without results, or --force "
                             "be given; it has summary.json\n");
  EXPECT_THAT(refused.out, IsEmpty());
  EXPECT_EQ(Guestmm(compare_ + out + " --force").status, 0);
  EXPECT_THAT(Contents(Path("out/summary.json")), HasSubstr("\"compare\""));
  EXPECT_EQ(Contents(Path("out/mine")), "text");
}

TEST_F(ExperimentOutputTest, AnEmptyPathIsRefusedBeforeRunning) {
  for (const std::string command : {"density", "compare", "replay ."}) {
    const Outcome outcome = Guestmm(command + " --out ''");
    EXPECT_EQ(outcome.status, 2) << command;
    EXPECT_EQ(outcome.err, "guestmm " + command.substr(0, command.find(' ')) +
                               ": --out=\"\": must be the path of a folder\n");
  }
  const Outcome calibrate = Guestmm("calibrate --out ''");
  EXPECT_EQ(calibrate.status, 2);
  EXPECT_EQ(calibrate.err,
            "guestmm calibrate: --out=\"\": must be the path of a file\n");
  EXPECT_EQ(Guestmm("calibrate --out /").err,
            "guestmm calibrate: --out=/: must be a file; it is a folder\n");
}

TEST_F(ExperimentOutputTest, OneFileIsPrintedInPlaceOfTheTables) {
  for (const std::string& command : {density_, compare_}) {
    const Outcome json = Guestmm(command + "--json --out " + Path("out"));
    EXPECT_EQ(json.status, 0);
    EXPECT_EQ(json.out, Contents(Path("out/summary.json")));
    const Outcome csv = Guestmm(command + "--csv --quiet");
    EXPECT_THAT(csv.out, AllOf(StartsWith("workload,policy,mechanism,repeat,"
                                          "seconds,guests,resident_bytes,"),
                               HasSubstr(",off,off,"), EndsWith("\n")));
    EXPECT_THAT(Guestmm(command + "--quiet").out, IsEmpty());
    EXPECT_EQ(Guestmm(command + "--json --csv").status, 2);
    fs::remove_all(Path("out"));
  }
}

TEST_F(ExperimentOutputTest, TheRunIsDescribed) {
  std::ofstream(Path("costs.json")) << R"({"costs_ns": {"kick": 12345}})";
  const auto summary = nlohmann::json::parse(
      Guestmm(compare_ + "--json --costs " + Path("costs.json")).out);
  const auto& run = summary["run"];
  EXPECT_EQ(run["command"][1], "compare");
  EXPECT_EQ(run["inputs"][0]["path"], Path("costs.json"));
  EXPECT_EQ(run["inputs"][0]["bytes"], 29);
  EXPECT_EQ(run["inputs"][0]["sha256"].get<std::string>().size(), 64u);
  EXPECT_EQ(summary["complete"], true);
}

// What the machine has not is no result. UndefinedBehaviorSanitizer itself
// needs file descriptors, to look at an object's vptr.
#ifndef GUESTMM_SANITIZED
TEST_F(ExperimentOutputTest, TooFewFileDescriptorsAreAnError) {
  const Outcome outcome =
      Guestmm("density --scale 0.02 --policies v12 --out " + Path("out"),
              "ulimit -n 12; ");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("\nguestmm density: "),
                                 EndsWith(": Too many open files\n")));
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_FALSE(fs::exists(Path("out/summary.json")));
}
#endif

// A policy that does something when it is to run, and nothing then.
class EndingPolicy final : public PlantedPolicy {
 public:
  explicit EndingPolicy(std::function<absl::Status()> end)
      : end_(std::move(end)) {}

  std::string_view name() const override { return "ending"; }
  Order min_order() const override { return kPageblockOrder; }
  size_t capacity() const override { return 1; }
  absl::Status Enable(const ReportingEnvironment& /*environment*/) override {
    return end_();
  }
  bool BlockFreed(ReportableZone& /*zone*/, Pfn /*pfn*/,
                  Order /*order*/) override {
    return false;
  }
  bool NextBatch(Scatterlist& /*list*/) override { return false; }

 private:
  const std::function<absl::Status()> end_;
};

// Runs the command in this process, with policies "interrupting",
// "terminating" and "failing" that end it, and ends this process.
void RunWithEndingPolicies(const std::string& arguments) {
  const auto add = [](const std::string& name,
                      const std::function<absl::Status()>& end) {
    RegisterPolicy(name, [end](const PolicyContext&) {
      return std::make_unique<EndingPolicy>(end);
    });
  };
  add("interrupting", [] {
    raise(SIGINT);
    return absl::OkStatus();
  });
  add("terminating", [] {
    raise(SIGTERM);
    return absl::OkStatus();
  });
  add("failing", [] { return absl::InternalError("was to fail"); });
  std::vector<std::string> words = {"guestmm"};
  std::istringstream text(arguments);
  for (std::string word; text >> word;) words.push_back(word);
  std::vector<char*> argv;
  argv.reserve(words.size());
  for (std::string& word : words) argv.push_back(word.data());
  std::exit(tools::GuestmmMain(static_cast<int>(argv.size()), argv.data()));
}

// The experiments, of policy off and then the one that is added, which is run
// last: the rest of the command line follows.
class EndedExperimentTest : public ExperimentOutputTest {
 protected:
  struct Experiment {
    std::string command;
    std::vector<std::string> rows;  // without that of the policy
  };
  const std::vector<Experiment> experiments_ = {
      {"density --scale 0.02 --max-guests 1 --settle 0 --policies off,",
       {"off", "limit"}},
      {"compare --workloads burst --guest-memory 64MiB --vcpus 1 --duration 1 "
       "--rest 1 --policies off,",
       {"off", "limit"}},
      {"replay " GUESTMM_DATA "/procs --truth --policies off,", {"off"}}};

  // The summary.json that is left, which is removed.
  nlohmann::json TakeSummary() const {
    auto summary = nlohmann::json::parse(Contents(Path("out/summary.json")));
    fs::remove_all(Path("out"));
    return summary;
  }
  static std::vector<std::string> PoliciesOf(const nlohmann::json& summary) {
    std::vector<std::string> policies;
    for (const auto& row : summary["rows"]) {
      // Only replay's rows have one; a const [] must find its key.
      if (row.value("source", "") != "recording") {
        policies.push_back(row["policy"]);
      }
    }
    return policies;
  }
};

TEST_F(EndedExperimentTest, AnInterruptLeavesTheRowsThatAreDone) {
  for (const Experiment& experiment : experiments_) {
    SCOPED_TRACE(experiment.command);
    EXPECT_EXIT(RunWithEndingPolicies(experiment.command +
                                      "interrupting --out " + Path("out")),
                ::testing::ExitedWithCode(130), "");
    const auto summary = TakeSummary();
    EXPECT_EQ(summary["complete"], false);
    EXPECT_FALSE(summary.contains("error"));
    EXPECT_EQ(PoliciesOf(summary), experiment.rows);
  }
}

TEST_F(EndedExperimentTest, AnErrorLeavesTheRowsThatAreDone) {
  for (const Experiment& experiment : experiments_) {
    SCOPED_TRACE(experiment.command);
    EXPECT_EXIT(RunWithEndingPolicies(experiment.command + "failing --out " +
                                      Path("out")),
                ::testing::ExitedWithCode(1), "was to fail");
    const auto summary = TakeSummary();
    EXPECT_EQ(summary["complete"], false);
    EXPECT_THAT(summary["error"].get<std::string>(), EndsWith("was to fail"));
    EXPECT_EQ(PoliciesOf(summary), experiment.rows);
  }
}

// Compare's first row ends before another policy begins.
TEST_F(EndedExperimentTest, WithoutARowNothingIsLeft) {
  fs::create_directory(Path("mine"));
  for (const Experiment& experiment : {experiments_[0], experiments_[2]}) {
    SCOPED_TRACE(experiment.command);
    const size_t off = experiment.command.rfind("off,");
    const std::string alone =
        experiment.command.substr(0, off) + "interrupting --quiet ";
    const std::string told = "^guestmm " + alone.substr(0, alone.find(' ')) +
                             ": interrupted; no row was done\n$";
    for (const std::string out : {"out", "mine", "mine/a/b"}) {
      EXPECT_EXIT(RunWithEndingPolicies(alone + "--out " + Path(out)),
                  ::testing::ExitedWithCode(130), told);
    }
    const std::string json = Path("json");
    EXPECT_EXIT(
        {
          if (std::freopen(json.c_str(), "w", stdout) == nullptr) abort();
          RunWithEndingPolicies(alone + "--json");
        },
        ::testing::ExitedWithCode(130), told);
    const auto summary = nlohmann::json::parse(Contents(json));
    EXPECT_EQ(summary["complete"], false);
    EXPECT_EQ(summary["config"]["policies"].back(), "interrupting");
    EXPECT_THAT(PoliciesOf(summary), Not(Contains("off")));
    EXPECT_THAT(PoliciesOf(summary), Not(Contains("interrupting")));
  }
  EXPECT_FALSE(fs::exists(Path("out")));
  EXPECT_TRUE(fs::is_empty(Path("mine")));
}

TEST_F(EndedExperimentTest, ASignalThatEndsItRemovesWhatItMade) {
  fs::create_directory(Path("mine"));
  for (const Experiment& experiment : experiments_) {
    SCOPED_TRACE(experiment.command);
    for (const std::string out : {"out", "mine", "mine/a/b"}) {
      EXPECT_EXIT(RunWithEndingPolicies(experiment.command +
                                        "terminating --out " + Path(out)),
                  ::testing::KilledBySignal(SIGTERM), "");
    }
  }
  EXPECT_FALSE(fs::exists(Path("out")));
  EXPECT_TRUE(fs::is_empty(Path("mine")));
}

}  // namespace
}  // namespace guestmm::experiment_output_test
