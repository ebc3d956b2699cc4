// guestmm replay, run as a program on the recording in data/.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/tools/command_testing.h"

namespace guestmm::replay_command_test {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class ReplayCommandTest : public CommandTest {
 protected:
  Outcome Replay(const std::string& arguments) const {
    return Guestmm("replay " + arguments);
  }

  const std::string recording_ = GUESTMM_DATA "/procs";
};

TEST_F(ReplayCommandTest, ExplanationsFitANarrowTerminal) {
  const Outcome outcome =
      Guestmm("replay " + recording_ + " --policy off", "COLUMNS=40 ");
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("\nfragmented: in units of the host that\n"
                              "the guest uses in part;\n"
                              "below order: in blocks smaller than the\n"
                              "policy reports;\n"),
                    HasSubstr("can be trusted:\ngood: its files fit, ")));
}

TEST_F(ReplayCommandTest, PrintsTheTruthAndWritesFiles) {
  const std::string out = (top_ / "out").string();
  const Outcome outcome =
      Replay(recording_ + " --policy off,linux --truth --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "replaying under off\nreplaying under linux\n");
  EXPECT_THAT(
      outcome.out,
      AllOf(
          HasSubstr(", in virtual time: 374249 events in 57.9 s of a guest "
                    "of 3.00 GiB"),
          ContainsRegex("\nin use +746.50 MiB +24.3 %\n"),
          ContainsRegex("\n  page cache +15.25 MiB +0.5 %\n"),
          ContainsRegex("\nunder off +85.4 % +- +- +- +-\n"),
          ContainsRegex("\nunder linux +97.9 % +2.1 % +0.0 % +0.0 % +0.0 %\n"),
          HasSubstr("can be trusted: good"),
          HasSubstr(" --policies linux:order=0\n"), HasSubstr("block match"),
          HasSubstr("\nlinux "),
          ContainsRegex("\nreal guest +294.00 MiB +4.00 MiB ")));
  EXPECT_THAT(
      Contents(out + "/summary.json"),
      AllOf(HasSubstr("\"events\": 374249"),
            HasSubstr("\"truth_reported_bytes\""), HasSubstr("\"block_match\""),
            HasSubstr("\"resident_mae_percent\""),
            HasSubstr("\"buddyinfo_distance\""),
            HasSubstr("\"unmatched_frees\""),
            HasSubstr("\"forced_placements\"")));
  const auto summary = nlohmann::json::parse(Contents(out + "/summary.json"));
  const auto& verdict = summary["verdict"];
  EXPECT_EQ(verdict["memory_at_start"]["page_cache_bytes"], 3904 * 4096);
  EXPECT_EQ(verdict["trust"], "good");
  EXPECT_EQ(verdict["advice"].size(), 1u);
  const auto& rows = summary["rows"];
  EXPECT_GT(rows[1]["free_at_end"]["fragmented_bytes"], 0);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_GT(rows[1]["resident_mean_bytes"], 800 * 1024 * 1024);
  EXPECT_EQ(rows[2]["policy"], "real");
  EXPECT_EQ(rows[2]["reported_bytes"], 294 * 1024 * 1024);
  EXPECT_EQ(rows[2]["needless_bytes"], 4 * 1024 * 1024);
  EXPECT_EQ(rows[2]["resident_end_bytes"], 810 * 1024 * 1024);
  EXPECT_THAT(Contents(out + "/series.csv"),
              AllOf(ContainsRegex("trace.gmtrace,truth,real,,[0-9.]+,,[0-9]+"
                                  ",,,\n"),
                    ContainsRegex("trace.gmtrace,linux,reporting:linux,,[0-9.]+"
                                  ",,[0-9]+,[0-9]+,[0-9]+,\n")));
  EXPECT_THAT(Contents(out + "/report.html"), HasSubstr("</html>"));
  EXPECT_GT(fs::file_size(out + "/trace.json"), 1000u);
}

TEST_F(ReplayCommandTest, RefusesBadArguments) {
  const auto expect = [&](const std::string& arguments, int status,
                          const std::string& text) {
    const Outcome outcome = Replay(arguments);
    EXPECT_EQ(outcome.status, status) << arguments;
    EXPECT_THAT(outcome.err, HasSubstr(text)) << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
  };
  expect("/nonexistent", 1,
         "/nonexistent: must be a trace or a recording's folder");
  expect(recording_ + " --policy nonsense", 2,
         "--policies=nonsense: must be one of off, v12, v12-hotplug, linux, "
         "adaptive, real");
  expect(recording_ + " --placement here", 2,
         "--placement=here: must be one of recorded, native");
  expect(recording_ + " --touch GFP_USER,GFP_NONSENSE", 2,
         "guestmm replay: --touch=GFP_USER,GFP_NONSENSE: must be all, or gfp "
         "flags as in GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO; "
         "\"GFP_NONSENSE\" is none");
  expect(recording_ + " --speed fast", 2,
         "--speed=fast: must be a number, 0.01 to 1000000, or max");
  expect(recording_ + " --speed 0", 2,
         "guestmm replay: --speed=0: must be 0.01 to 1000000, or max");
  expect(recording_ + " --real --virtual", 2, "--virtual");
  expect(recording_ + " --real --memory 0-64T", 2,
         "--real: the guest's 64.00 TiB and 256.00 MiB besides must be "
         "available on this machine, which has ");
  for (const std::string tail : {"1e300", "-1e300", "604801", "-1", "nan"}) {
    expect(recording_ + " --tail " + tail, 2,
           "--tail=" + tail + ": must be 0 to 604800 seconds");
  }
  expect(recording_ + " --delay 1e300", 2,
         "--delay=1e300: must be 0 to 3600 seconds for linux");
  expect(recording_ + " --granule 2GiB", 2,
         "--granule=2GiB: must be a power of 2, 4KiB to 2MiB");
  expect(recording_ + " --real --granule 64KiB", 2,
         "--granule=64KiB: must be 4KiB or 2MiB with --real");
  expect(recording_ + " --real --khugepaged on", 2,
         "--khugepaged=on: must be off with --real; this machine has its own");
  expect(recording_ + " --memory 0-100T", 1,
         "memory map (iomem or --memory): ");
  expect(recording_ + " --policies real,real", 2,
         "--policies=real: must be given once");
  expect(recording_ + " --policies off,real --placement native", 2,
         "--placement=native: must be recorded with the policy real");
  expect(recording_ + " --mechanisms off --policies off", 2,
         "guestmm replay: --mechanisms=off: must be unset with --policies");
  expect(recording_ + " --policy linux,", 2,
         "guestmm replay: --policies=linux,: must have a word on each side of "
         "a comma");
  expect(recording_ + " --mechanisms foo", 2,
         "--mechanisms=foo: must be one of off, reporting, real");
  expect(recording_ + " --mechanisms reporting", 2,
         "guestmm replay: --mechanisms=reporting: must be written "
         "reporting:POLICY[:KEY=VALUE]...");
  expect(recording_ + " --mechanisms limit", 2,
         "--mechanisms=limit: must be one of off, reporting, real");
  expect(recording_ + " --mechanisms real,real", 2,
         "--mechanisms=real: must be given once");
  expect(recording_ + " --mechanisms reporting:linux:order=11", 2,
         "--mechanisms=reporting:linux:order=11: order must be ");
  expect("", 2, "path: must be given");
}

// Without kpageflags all memory counts as in use at the start.
TEST_F(ReplayCommandTest, ATraceNeedsAMemoryMap) {
  fs::copy(recording_ + "/trace.gmtrace", top_ / "alone.gmtrace");
  const std::string trace = Path("alone.gmtrace");
  const Outcome without = Replay(trace);
  EXPECT_EQ(without.status, 2);
  EXPECT_THAT(without.err,
              AllOf(HasSubstr(trace + ": must have a memory map (iomem)"),
                    HasSubstr("--memory 0-2G,4G-5G")));
  const Outcome outcome = Replay(trace + " --memory 0-2G,4G-5G --policy linux");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("of a guest of 3.00 GiB"));
  EXPECT_THAT(Replay(trace + " --memory 0-1").err,
              HasSubstr("guestmm replay: --memory=0-1: "));
}

// The first policy would leave nothing to the others.
TEST_F(ReplayCommandTest, APipeIsReadOnce) {
  std::ofstream(Path("small.txt"))
      << "  task-1 [000] .....  10.000000: mm_page_free: page=0 pfn=0x800 "
         "order=9\n";
  const std::string before = "cat " + Path("small.txt") + " | ";
  const std::string arguments = "replay /dev/stdin --memory 0-16M ";
  for (const char* const more : {"", "--policy off,linux"}) {
    const Outcome outcome = Guestmm(arguments + more, before);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.err,
                AllOf(HasSubstr("/dev/stdin: must be a regular file"),
                      HasSubstr("--policies linux"),
                      HasSubstr("guestmm trace convert")));
    EXPECT_THAT(outcome.out, IsEmpty());
  }
  const Outcome one = Guestmm(arguments + "--policy linux", before);
  EXPECT_EQ(one.status, 0) << one.err;
  EXPECT_THAT(one.out, HasSubstr(": 1 events in "));

  // A pipe without a writer must not be opened.
  ASSERT_EQ(mkfifo(Path("trace.txt").c_str(), 0600), 0);
  fs::copy(recording_ + "/reports.csv", Path("reports.csv"));
  fs::copy(recording_ + "/rss.csv", Path("rss.csv"));
  const Outcome fifo =
      Replay(top_.string() + " --memory 0-16M --policy linux --truth");
  EXPECT_EQ(fifo.status, 2);
  EXPECT_THAT(fifo.err, HasSubstr("trace.txt: must be a regular file"));
}

TEST_F(ReplayCommandTest, NamesTheFilesThatTheTruthNeeds) {
  for (const char* file : {"iomem", "trace.gmtrace"}) {
    fs::copy(recording_ + "/" + file, top_ / file);
  }
  const Outcome outcome = Replay(top_.string() + " --truth");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.err,
              HasSubstr("--truth: must have these files beside " +
                        Path("trace.gmtrace") +
                        ", and not empty: reports.csv, rss.csv\n"));
  fs::copy(recording_ + "/rss.csv", top_ / "rss.csv");
  std::ofstream(top_ / "reports.csv") << "time_s,gpa,bytes\n";
  EXPECT_THAT(Replay(top_.string() + " --truth").err,
              HasSubstr("and not empty: reports.csv\n"));
  EXPECT_THAT(
      Replay(top_.string() + " --policies real").err,
      HasSubstr("guestmm replay: --policies=real: must have a recording "
                "of what the guest's kernel reported (reports.csv)"));
  EXPECT_THAT(
      Replay(top_.string() + " --mechanisms real").err,
      HasSubstr("guestmm replay: --mechanisms=real: must have a recording "
                "of what the guest's kernel reported (reports.csv)"));
}

// As docs/fidelity.md has it.
TEST_F(ReplayCommandTest, TheRealKernelsReportsAreAPolicy) {
  const std::string out = Path("out");
  const Outcome outcome =
      Replay(recording_ + " --policies real --truth --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              AllOf(ContainsRegex("\nreal +294.00 MiB +4.00 MiB .* 100.0 % "),
                    ContainsRegex("\nreal guest +294.00 MiB +4.00 MiB ")));
  EXPECT_THAT(Contents(out + "/report.html"),
              HasSubstr("\"truth\":{\"reported_bytes\":308281344,"
                        "\"needless_bytes\":4194304,"));
}

TEST_F(ReplayCommandTest, AMechanismNamesItsRow) {
  const std::string out = (top_ / "out").string();
  const auto mechanisms_and_policies = [&](const std::string& arguments) {
    const Outcome outcome =
        Replay(recording_ + arguments + " --force --out " + out);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const auto summary = nlohmann::json::parse(Contents(out + "/summary.json"));
    std::string text;
    for (const auto& row : summary["rows"]) {
      text += row["mechanism"].get<std::string>() + " " +
              row["policy"].get<std::string>() + "\n";
    }
    return text;
  };
  const std::string rows =
      "off off\nreal real\nreporting:linux:delay=1 linux\n";
  EXPECT_EQ(
      mechanisms_and_policies(" --mechanisms off,real,reporting:linux:delay=1"),
      rows);
  EXPECT_EQ(mechanisms_and_policies(" --policies off,real,linux:delay=1"),
            rows);
}

TEST_F(ReplayCommandTest, ItsSummaryHasAllThatRepeatsIt) {
  const std::string out = Path("out");
  const Outcome outcome = Replay(
      recording_ +
      " --policies linux,adaptive --granule 4KiB --order 5 --delay 0.5 "
      "--capacity 8 --floor 1 --tail 1.5 --memory 0-2G,4G-5G --skip-bad 3 "
      "--sample-interval 0.5 --out " +
      out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const auto config =
      nlohmann::json::parse(Contents(out + "/summary.json"))["config"];
  EXPECT_EQ(config["memory"], "0-0x80000000,0x100000000-0x140000000");
  EXPECT_EQ(config["granule_order"], 0);
  EXPECT_EQ(config["policies"], nlohmann::json({"linux", "adaptive"}));
  EXPECT_EQ(config["sample_interval_s"], 0.5);
  EXPECT_EQ(config["tail_s"], 1.5);
  EXPECT_EQ(config["skip_bad"], 3);
  const auto& parameters = config["policy_parameters"];
  EXPECT_EQ(parameters["linux"]["delay_ms"], 500);
  EXPECT_EQ(parameters["linux"]["capacity"], 8);
  EXPECT_EQ(parameters["adaptive"]["order"], 5);
  EXPECT_EQ(parameters["adaptive"]["floor"], 1);
}

TEST_F(ReplayCommandTest, SamplesAreAsFarApartAsAsked) {
  const std::string out = Path("out");
  const Outcome outcome = Replay(
      recording_ +
      " --policies off --speed max --seed 7 --sample-interval 30 --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(Contents(out + "/summary.json"))["seed"], 7);
  EXPECT_THAT(
      Contents(out + "/series.csv"),
      AllOf(HasSubstr(",off,off,,25.730,"), HasSubstr(",off,off,,55.730,"),
            Not(HasSubstr(",off,off,,26."))));
  const Outcome refused = Replay(recording_ + " --sample-interval 0");
  EXPECT_EQ(refused.status, 2);
  EXPECT_EQ(refused.err,
            "guestmm replay: --sample-interval=0: must be 0.001 to 3600 "
            "seconds\n");
}

TEST_F(ReplayCommandTest, CostsAreReadFromAFile) {
  std::ofstream(Path("costs.json")) << R"({"costs_ns": {"kick": 12345}})";
  const std::string out = Path("out");
  const std::string arguments = recording_ + " --policies off --costs ";
  EXPECT_EQ(Replay(arguments + Path("costs.json") + " --out " + out).status, 0);
  EXPECT_EQ(nlohmann::json::parse(
                Contents(out + "/summary.json"))["config"]["costs_ns"]["kick"],
            12345);
  const Outcome missing = Replay(arguments + Path("none.json"));
  EXPECT_EQ(missing.status, 2);
  EXPECT_THAT(missing.err, HasSubstr("--costs=" + Path("none.json")));
}

TEST_F(ReplayCommandTest, ATruncatedTraceIsReplayedUpToItsEnd) {
  fs::copy(recording_ + "/iomem", top_ / "iomem");
  std::ofstream(top_ / "trace.gmtrace", std::ios::binary)
      << Contents(recording_ + "/trace.gmtrace").substr(0, 300000);
  const std::string out = Path("out");
  const Outcome outcome =
      Replay(top_.string() + " --policies v12,linux --out " + out);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("trace.gmtrace"));
  // What could be read is replayed and written.
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(" events in "), HasSubstr("\nv12 "),
                                 HasSubstr("\nlinux ")));
  EXPECT_THAT(Contents(out + "/summary.json"),
              ContainsRegex("\"error\": \".*trace.gmtrace"));
  EXPECT_THAT(Contents(out + "/series.csv"),
              HasSubstr(",linux,reporting:linux,"));
  EXPECT_THAT(Contents(out + "/report.html"),
              ContainsRegex("\"error\":\".*trace.gmtrace"));
  EXPECT_TRUE(fs::exists(out + "/trace.json"));
}

TEST_F(ReplayCommandTest, CountsEventsThatCouldNotBeFollowed) {
  const std::string trace = Path("small.txt");
  const std::string at = "  task-1 [000] .....  10.00000";
  const std::string alloc = " migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE\n";
  std::ofstream text(trace);
  text << at << "1: mm_page_alloc: page=0 pfn=0x80000 order=0" << alloc << at
       << "2: mm_page_alloc: page=0 pfn=nonsense\n";
  text << at << "3: mm_page_free: page=0 pfn=0x800 order=10\n";
  text.close();
  const std::string arguments =
      trace + " --memory 0-16M --policy off --skip-bad 1 ";
  EXPECT_THAT(
      Replay(arguments).out,
      HasSubstr("; 0 events lost; 50.00 % of events outside the guest's "
                "memory; 1 malformed lines skipped\n"));

  // Twice what is free.
  std::ofstream more(trace, std::ios::app);
  more << at << "4: mm_page_alloc: page=0 pfn=0x400 order=10" << alloc << at
       << "5: mm_page_alloc: page=0 pfn=0x800 order=10" << alloc;
  more.close();
  EXPECT_THAT(Replay(arguments + "--placement native").out,
              HasSubstr("; 33.33 % of allocations failed; "));
}

// 16 MiB, of which a microVM initialized half of the struct pages.
TEST_F(ReplayCommandTest, PrintsTheMemoryThatTheGuestNeverHad) {
  std::ofstream(Path("trace.txt"))
      << "  task-1 [000] .....  10.000000: mm_page_free: page=0 pfn=0x800 "
         "order=9\n";
  std::ofstream(Path("iomem")) << "00000000-00ffffff : System RAM\n";
  std::ofstream(Path("zoneinfo.start"))
      << "Node 0, zone DMA\n spanned 4096\n present 4096\n managed 2046\n"
         " start_pfn: 0\n";
  std::ofstream(Path("kpageflags.start"), std::ios::binary)
      << std::string(4096 * 8 - 4, '\0') << '\1' << std::string(3, '\0');
  const std::string out = Path("out");
  const Outcome outcome = Replay(top_.string() + " --policy off --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              HasSubstr("\nnot managed by the guest's allocator, so neither in "
                        "use nor resident: 8.00 MiB uninitialized; added "
                        "later: 2.00 MiB\n"));
  const auto row =
      nlohmann::json::parse(Contents(out + "/summary.json"))["rows"][0];
  EXPECT_EQ(row["unmanaged_bytes"], 2049 * 4096);
  EXPECT_EQ(row["unmanaged_uninitialized_bytes"], 2049 * 4096);
  EXPECT_EQ(row["unmanaged_offline_bytes"], 0);
  EXPECT_EQ(row["unmanaged_no_page_bytes"], 0);
  EXPECT_EQ(row["unmanaged_added_bytes"], 2 * 1024 * 1024);
  EXPECT_EQ(row["resident_end_bytes"], 10 * 1024 * 1024);
}

TEST_F(ReplayCommandTest, PrintsTheMemoryThatArrivedAndLeft) {
  std::ofstream(Path("trace.txt"))
      << "  task-1 [000] .....  10.000000: mm_page_alloc: page=0 pfn=0x400 "
         "order=0 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE\n"
         "  task-1 [000] .....  11.500000: mm_page_free: page=0 pfn=0x2000 "
         "order=10\n"
         "  task-1 [000] .....  14.000000: mm_page_free: page=0 pfn=0x400 "
         "order=0\n";
  std::ofstream(Path("iomem")) << "00000000-00ffffff : System RAM\n";
  std::ofstream(Path("plug.csv")) << "time_s,gpa,bytes\n"
                                     "11,0x2000000,4194304\n"
                                     "13,0x2000000,-4194304\n";
  const std::string out = Path("out");
  const Outcome outcome = Replay(top_.string() + " --policy off --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("of a guest of 16.00 MiB"),
            HasSubstr("\nmemory of 4.00 MiB at 0x2000000 arrived 1.5 s "
                      "after the start\n"
                      "memory of 4.00 MiB at 0x2000000 left 3.0 s after "
                      "the start\n")));
  const auto row =
      nlohmann::json::parse(Contents(out + "/summary.json"))["rows"][0];
  EXPECT_EQ(row["memory_bytes"], 16 * 1024 * 1024);
  const auto& changes = row["memory_changes"];
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0]["time_s"], 11.5);
  EXPECT_EQ(changes[0]["gpa"], 0x2000000);
  EXPECT_EQ(changes[0]["bytes"], 4 * 1024 * 1024);
  EXPECT_EQ(changes[1]["time_s"], 13.0);
  EXPECT_EQ(changes[1]["bytes"], -4 * 1024 * 1024);
}

TEST_F(ReplayCommandTest, ATruthOfAnotherTimeIsAnError) {
  for (const char* file : {"iomem", "trace.gmtrace", "window.csv"}) {
    fs::copy(recording_ + "/" + file, top_ / file);
  }
  std::ofstream(top_ / "reports.csv") << "time_s,gpa,bytes\n"
                                         "1700000001.5,0x200000,2097152\n";
  std::ofstream(top_ / "rss.csv") << "time_s,resident_kib\n"
                                     "1700000000.25,1024\n"
                                     "1700000002.5,1024\n";
  const Outcome outcome = Replay(top_.string() + " --policy linux --truth");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(
      outcome.err,
      AllOf(ContainsRegex("--truth: the trace is from [0-9.]+ s to [0-9.]+ s"),
            HasSubstr("reports.csv is from 1700000001.500 s to "
                      "1700000001.500 s and rss.csv from 1700000000.250 s to "
                      "1700000002.500 s")));
  EXPECT_THAT(outcome.out, ContainsRegex("\nlinux .* - +- +-\n"));
}

TEST_F(ReplayCommandTest, OnRealRam) {
  const std::string trace = Path("small.txt");
  std::ofstream(trace) << "  task-1 [000] .....  10.000000: mm_page_free: "
                          "page=0 pfn=0x800 order=9\n"
                          "  task-1 [000] .....  11.000000: mm_page_alloc: "
                          "page=0 pfn=0x800 order=0 "
                          "migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE\n";
  const std::string out = Path("out");
  const Outcome outcome = Replay(
      trace + " --memory 0-16M --real --policy linux --speed 1e6" +
      " --touch \"__GFP_MOVABLE|__GFP_HIGHMEM,__GFP_ZERO\" --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr(", on real RAM: 2 events in 1.0 s of a guest of 16.00 "
                      "MiB"),
            HasSubstr("only allocations of "
                      "__GFP_HIGHMEM|__GFP_MOVABLE, __GFP_ZERO are touched: "
                      "resident memory is a lower bound")));
  EXPECT_THAT(Contents(out + "/summary.json"),
              AllOf(HasSubstr("\"mode\": \"real\""),
                    HasSubstr("\"touch\": \"__GFP_HIGHMEM|__GFP_MOVABLE,"
                              "__GFP_ZERO\""),
                    HasSubstr("\"speed\": 1000000.0")));
  EXPECT_THAT(Contents(out + "/report.html"), HasSubstr("\"mode\":\"real\""));
}

// A malformed file is not a usage error.
TEST_F(ReplayCommandTest, AMalformedFileIsAFailure) {
  fs::copy(recording_ + "/iomem", top_ / "iomem");
  std::ofstream(top_ / "trace.txt") << "  task-1 [000] .....  12.000000: "
                                       "mm_page_alloc: page=0 pfn=nonsense\n";
  Outcome outcome = Replay(top_.string());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("trace.txt:1"));
  EXPECT_THAT(outcome.out, IsEmpty());

  std::ofstream(top_ / "zoneinfo.start") << "Node nonsense\n";
  outcome = Replay(top_.string());
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.err, HasSubstr("zoneinfo.start"));
}

}  // namespace
}  // namespace guestmm::replay_command_test
