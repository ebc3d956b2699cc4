// What the guestmm command prints, where, and its exit status.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/tools/command_testing.h"

namespace guestmm::command_line_test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ContainsRegex;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

class CommandLineTest : public CommandTest {
 protected:
  // Expects one line on stderr, nothing on stdout, and status 2.
  void ExpectRefused(const std::string& arguments, const std::string& line) {
    const Outcome outcome = Guestmm(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.err, line + "\n");
    EXPECT_THAT(outcome.out, IsEmpty());
  }
};

TEST_F(CommandLineTest, NamesTheOptionTheValueAndTheRule) {
  ExpectRefused("density --scale 0",
                "guestmm density: --scale=0: must be 0.02 to 64");
  ExpectRefused("density --scale abc",
                "guestmm density: --scale=abc: must be a number, 0.02 to 64");
  ExpectRefused(
      "density --policies off,nonsense",
      "guestmm density: --policies=nonsense: must be one of off, v12, "
      "v12-hotplug, linux, adaptive");
  ExpectRefused("density --mechanisms real",
                "guestmm density: --mechanisms=real: must be one of off, "
                "reporting");
  ExpectRefused("density --vmm ''",
                "guestmm density: --vmm=\"\": must be the path of a socket");
  ExpectRefused("density --order 11",
                "guestmm density: --order=11: must be 0 to 10 for v12");
  for (const std::string delay : {"3601", "1e300", "-0.1", "nan", "soon"}) {
    ExpectRefused("density --policies linux --delay " + delay,
                  "guestmm density: --delay=" + delay +
                      ": must be 0 to 3600 seconds for linux");
  }
  ExpectRefused(
      "density --seed -1",
      "guestmm density: --seed=-1: must be a whole number, 0 or more");
  ExpectRefused("density --hypervisor xen",
                "guestmm density: --hypervisor=xen: must be one of madvise, "
                "none");
  ExpectRefused("density --footprint 3parsecs",
                "guestmm density: --footprint=3parsecs: must be a size, as in "
                "256MiB, 0 to 64TiB");
}

TEST_F(CommandLineTest, RefusesMoreMemoryThanTheMachineHas) {
  const Outcome outcome =
      Guestmm("density --host-memory 64TiB --out " + (top_ / "out").string());
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("--host-memory=64TiB: must be less: a host of "
                              "64.00 TiB needs "),
                    HasSubstr("of real memory, and this machine has ")));
  EXPECT_FALSE(fs::exists(top_ / "out"));
}

TEST_F(CommandLineTest, RefusesAFolderThatCannotBeWrittenBeforeRunning) {
  std::ofstream(top_ / "file") << "text";
  const std::string out = (top_ / "file" / "out").string();
  ExpectRefused("density --out " + out,
                "guestmm density: --out=" + out +
                    ": must be a folder that can be created: Not a directory");
}

TEST_F(CommandLineTest, NamesTheVmmThatCannotBeReached) {
  const std::string vmm = Path("none");
  const Outcome outcome =
      Guestmm("density --policies off --scale 0.02 --vmm " + vmm);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.err, "guestmm density: --vmm=" + vmm +
                             ": must be the socket of a VMM (guestmm vmm): "
                             "connecting to " +
                             vmm + " failed: No such file or directory\n");
}

TEST_F(CommandLineTest, RefusesAnEmptyWordInAList) {
  ExpectRefused("density --policies linux,",
                "guestmm density: --policies=linux,: must have a word on each "
                "side of a comma");
  ExpectRefused("compare --workloads burst,,churn",
                "guestmm compare: --workloads=burst,,churn: must have a word "
                "on each side of a comma");
  ExpectRefused("density --mechanisms ''",
                "guestmm density: --mechanisms=\"\": must be one or more "
                "mechanisms, separated by commas");
}

TEST_F(CommandLineTest, HelpNamesEveryOption) {
  EXPECT_THAT(Guestmm("--version").out, HasSubstr("guestmm 0."));
  const Outcome help = Guestmm("density --help");
  EXPECT_EQ(help.status, 0);
  for (const char* option :
       {"--scale",         "--guest-memory", "--host-memory", "--footprint",
        "--workload-min",  "--policies",     "--mechanisms",  "--seed",
        "--order",         "--threshold",    "--capacity",    "--delay",
        "--hypervisor",    "--huge-pages",   "--real-time",   "--vmm",
        "--idle-activity", "--settle",       "--max-guests",  "--out"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
}

TEST_F(CommandLineTest, DensityPrintsATableAndWritesItsFiles) {
  const fs::path out = top_ / "a" / "out";
  const Outcome outcome = Guestmm(
      "density --scale 0.02 --settle 1 --max-guests 3 --out " + out.string());
  EXPECT_EQ(outcome.status, 0);
  // A line for each phase, as it is no terminal.
  EXPECT_EQ(outcome.err,
            "launching guests under off\nlaunching guests under v12\n"
            "launching guests under linux\nlaunching guests under adaptive\n");
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("guests that fit"), HasSubstr("\noff "),
                    HasSubstr("\nv12 "), HasSubstr("\nlimit "),
                    HasSubstr("\nv12 stopped early: max-guests 3\n"),
                    EndsWith("summary.json, series.csv\n")));
  EXPECT_THAT(Contents(out / "summary.json"), HasSubstr("\"experiment\""));
  EXPECT_THAT(Contents(out / "series.csv"), HasSubstr("\n,off,off,,"));
}

TEST_F(CommandLineTest, ASwitchMayDoWithoutAValue) {
  const std::string density =
      "density --scale 0.02 --policies off --max-guests 1 --settle 0 ";
  EXPECT_THAT(Guestmm(density + "--real-time off").out,
              HasSubstr("; in virtual time"));
  EXPECT_THAT(Guestmm(density + "--real-time").out,
              HasSubstr("; in real time"));
  EXPECT_THAT(Guestmm(density + "--real-time --idle-activity off").out,
              HasSubstr("then silent; in real time"));
  ExpectRefused(density + "--real-time maybe",
                "guestmm density: --real-time=maybe: must be on or off");
}

TEST_F(CommandLineTest, CompareHelpNamesEveryOptionAndWorkload) {
  const Outcome help = Guestmm("compare --help");
  EXPECT_EQ(help.status, 0);
  for (const char* option : {"--policies",
                             "--workloads",
                             "--seed",
                             "--order",
                             "--threshold",
                             "--capacity",
                             "--reportable-order",
                             "--granule",
                             "--guest-memory",
                             "--vcpus",
                             "--duration",
                             "--rest",
                             "--virtual",
                             "--real",
                             "--repeats",
                             "--processes",
                             "--costs",
                             "--jobs",
                             "--out",
                             "* page_fault1:",
                             "page_fault1-60g:",
                             "* sandbox:"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
}

TEST_F(CommandLineTest, ComparePrintsTablesAndWritesItsFiles) {
  const fs::path out = top_ / "out";
  const std::string command =
      "compare --policies v12 --workloads burst,fragmenter --guest-memory "
      "128MiB --duration 3 --rest 2 --out ";
  const Outcome outcome = Guestmm(command + out.string());
  EXPECT_EQ(outcome.status, 0);
  // Side by side, so in any order.
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("running burst\n"),
                                 HasSubstr("running fragmenter\n")));
  EXPECT_THAT(
      outcome.out,
      AllOf(StartsWith("compare: in virtual time"),
            HasSubstr("\nburst: grows to 80 %"), HasSubstr("\nfragmenter: "),
            HasSubstr("\noff "), HasSubstr("\nv12 "), HasSubstr("\nlimit "),
            EndsWith("summary.json, series.csv\n")));
  EXPECT_THAT(Contents(out / "summary.json"),
              HasSubstr("\"experiment\": \"compare\""));
  EXPECT_EQ(Guestmm(command + (top_ / "again").string()).status, 0);
  const auto repeated = [](const fs::path& folder) {
    auto summary = nlohmann::json::parse(Contents(folder / "summary.json"));
    summary.erase("run");
    return summary;
  };
  EXPECT_EQ(repeated(out), repeated(top_ / "again"));
  EXPECT_EQ(Contents(out / "series.csv"),
            Contents(top_ / "again" / "series.csv"));
}

class CompareProcessesTest : public CommandLineTest {
 protected:
  CompareProcessesTest() {
    fs::create_directories(top_ / "tmp");
    before_ = "export TMPDIR=" + (top_ / "tmp").string() + "; ";
  }

  const std::string tiny_ =
      "compare --real --guest-memory 64MiB --duration 0.3 --rest 0.1 "
      "--repeats 1 --processes 2 --policies linux ";
  std::string before_;
};

TEST_F(CompareProcessesTest, EachProcessRunsThisProgramWithTheSameArguments) {
  const fs::path out = top_ / "out";
  const Outcome outcome = Guestmm(tiny_ + "--out " + out.string(), before_);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "process 1 of 2\nprocess 2 of 2\n");
  EXPECT_THAT(
      outcome.out,
      AllOf(HasSubstr("; medians of 2 processes\n"),
            ContainsRegex("of off +least +most "), HasSubstr("\nlinux "),
            Not(HasSubstr("\nv12 ")), EndsWith("summary.json, series.csv\n")));
  EXPECT_THAT(Contents(out / "summary.json"),
              AllOf(HasSubstr("\"processes\": 2"), HasSubstr("\"repeats\": 1"),
                    HasSubstr("\"rest_s\": 0.1"),
                    HasSubstr("\"guest_bytes\": 67108864"),
                    ContainsRegex("\"work_share_of_off_min\": [0-9]")));
  EXPECT_THAT(Contents(out / "series.csv"),
              AllOf(HasSubstr("\npage_fault1,linux,reporting:linux,1,"),
                    HasSubstr("\npage_fault1,linux,reporting:linux,2,")));
  EXPECT_TRUE(fs::is_empty(top_ / "tmp"));
}

TEST_F(CompareProcessesTest, OneThatFailsIsQuotedAndLeavesNothing) {
  // Files may not be as large as a summary.
  const Outcome outcome =
      Guestmm(tiny_, before_ + "trap '' XFSZ; ulimit -f 1; ");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("\nguestmm compare: process 1 of 2: ended with "
                              "exit status 1: guestmm compare: --out="),
                    EndsWith(": cannot be written: File too large\n")));
  EXPECT_TRUE(fs::is_empty(top_ / "tmp"));
}

TEST_F(CompareProcessesTest, AreRefusedInVirtualTime) {
  ExpectRefused("compare --processes 2",
                "guestmm compare: --processes=2: must be 1 in virtual time; "
                "runs are deterministic");
  ExpectRefused("compare --real --processes 0",
                "guestmm compare: --processes=0: must be 1 to 100");
}

TEST_F(CommandLineTest, CompareNamesTheOptionTheValueAndTheRule) {
  ExpectRefused(
      "compare --granule 3MiB",
      "guestmm compare: --granule=3MiB: must be a power of 2, 4KiB to 2MiB");
  for (const std::string jobs : {"0", "1025", "two"}) {
    ExpectRefused("compare --jobs " + jobs,
                  "guestmm compare: --jobs=" + jobs +
                      ": must be a whole number from 1 to 1024");
  }
  ExpectRefused("compare --real --jobs 2",
                "guestmm compare: --jobs=2: must be unset with --real, where "
                "runs would disturb each other");
  ExpectRefused("compare --vcpus 0",
                "guestmm compare: --vcpus=0: must be 1 to 64");
  ExpectRefused(
      "compare --duration 4000",
      "guestmm compare: --duration=4000: must be 0.001 to 3600 seconds");
  ExpectRefused("compare --duration 0",
                "guestmm compare: --duration=0: must be 0.001 to 3600 seconds");
  ExpectRefused("compare --guest-memory 1MiB",
                "guestmm compare: --guest-memory=1MiB: must be 64MiB to 1TiB");
  ExpectRefused("compare --costs /no/such.json",
                "guestmm compare: --costs=/no/such.json: cannot be read: No "
                "such file or directory");
  const fs::path costs = top_ / "costs.json";
  std::ofstream(costs) << R"({"costs_ns": {"exit": -1}})";
  ExpectRefused(
      "compare --costs " + costs.string(),
      "guestmm compare: --costs=" + costs.string() +
          ": costs_ns.exit=-1: must be a whole number, 0 to 10000000000");
  std::ofstream(top_ / "file") << "text";
  const std::string out = Path("file") + "/out";
  ExpectRefused("compare --out " + out,
                "guestmm compare: --out=" + out +
                    ": must be a folder that can be created: Not a directory");
  EXPECT_THAT(Guestmm("compare --workloads nap").err,
              StartsWith("guestmm compare: --workloads=nap: must be one of "
                         "page_fault1, "));
}

TEST_F(CommandLineTest, InfoHelpNamesEveryOption) {
  const Outcome help = Guestmm("info --help");
  EXPECT_EQ(help.status, 0);
  EXPECT_THAT(help.out, HasSubstr("the allocator's metadata"));
  for (const char* option :
       {"--memory", "--movable", "--distances", "--cpus", "--min-free-kbytes",
        "--kernel", "--shuffle", "--churn", "--seed", "--show"}) {
    EXPECT_THAT(help.out, HasSubstr(option));
  }
}

TEST_F(CommandLineTest, InfoNamesTheOptionTheValueAndTheRule) {
  ExpectRefused("info --memory 0-2G,4Q-5G",
                "guestmm info: --memory=0-2G,4Q-5G: \"4Q\" at character 6: "
                "must be a number of bytes, decimal or hexadecimal, optionally "
                "with K, M, G or T, as in 4G or 0x100000000");
  ExpectRefused("info --movable 5000",
                "guestmm info: --movable=5000: must be whole pages of 4 "
                "KiB, as in 8K or 1GiB");
  ExpectRefused(
      "info --distances '10,20;9,10'",
      "guestmm info: --distances=9: must be 10 to 255; rows are as in "
      "\"10,20;20,10\"");
  ExpectRefused(
      "info --cpus 0",
      "guestmm info: --cpus=0: must be a whole number from 1 to 1024");
  ExpectRefused("info --min-free-kbytes 4G",
                "guestmm info: --min-free-kbytes=4G: must be a whole number "
                "from 0 to 1073741824");
  ExpectRefused("info --kernel 5.4",
                "guestmm info: --kernel=5.4: must be one of 5.3, 6.1, 6.12");
  ExpectRefused("info --shuffle yes",
                "guestmm info: --shuffle=yes: must be a whole number from 0 to "
                "18446744073709551615");
  ExpectRefused("info --churn -1",
                "guestmm info: --churn=-1: must be a whole number from 0 to "
                "1099511627776");
  ExpectRefused("info --show buddyinfo,slabinfo",
                "guestmm info: --show=slabinfo: must be one of buddyinfo, "
                "pagetypeinfo, zoneinfo, vmstat");
}

TEST_F(CommandLineTest, InfoPrintsTheAllocatorsError) {
  ExpectRefused(
      "info --memory 0-1G@60",
      "guestmm info: --memory=0-1G@60: memory range of pages [0x0, 0x40000): "
      "node 60 must be 0 to 59");
  ExpectRefused("info --memory 0-1G,1G-2G@1 --distances 10",
                "guestmm info: --distances=10: must have a row for node 1, "
                "which has memory");
}

TEST_F(CommandLineTest, InfoPrintsOneTextAsTheKernelWould) {
  // A PC with 4 GiB: 16 MiB of DMA, the rest of 3 GiB, and 1 GiB from 4 GiB on.
  const Outcome outcome = Guestmm("info --show buddyinfo");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.err, IsEmpty());
  EXPECT_EQ(outcome.out,
            "Node 0, zone      DMA      0      0      0      0      0      0"
            "      0      0      0      0      4 \n"
            "Node 0, zone    DMA32      0      0      0      0      0      0"
            "      0      0      0      0    764 \n"
            "Node 0, zone   Normal      0      0      0      0      0      0"
            "      0      0      0      0    256 \n");
}

TEST_F(CommandLineTest, InfoHeadsEachOfSeveralTexts) {
  const std::string all = Guestmm("info").out;
  EXPECT_THAT(all, StartsWith("==> buddyinfo <==\nNode 0, zone      DMA "));
  EXPECT_THAT(all,
              HasSubstr(" \n\n==> pagetypeinfo <==\nPage block order: 9\n"));
  EXPECT_THAT(all, HasSubstr(" \n\n==> zoneinfo <==\nNode 0, zone      DMA\n"));
  EXPECT_THAT(all, Not(HasSubstr("vmstat")));
  EXPECT_THAT(
      Guestmm("info --show vmstat,buddyinfo --memory 0-8K").out,
      AllOf(StartsWith("==> vmstat <==\nnr_free_pages 2\n"),
            HasSubstr("\n\n==> buddyinfo <==\nNode 0, zone      DMA      0")));
}

TEST_F(CommandLineTest, InfoChurnsTheSameWayForOneSeed) {
  const std::string churn =
      "info --memory 0-64M --cpus 2 --churn 1000 --show pagetypeinfo,vmstat";
  const Outcome first = Guestmm(churn + " --seed 7");
  EXPECT_EQ(first.status, 0);
  EXPECT_THAT(first.out, Not(HasSubstr("pgfree 0\n")));
  EXPECT_EQ(Guestmm(churn + " --seed 7").out, first.out);
  EXPECT_NE(Guestmm(churn + " --seed 8").out, first.out);
}

TEST_F(CommandLineTest, InfoKeepsChurningWithoutMemory) {
  const Outcome outcome =
      Guestmm("info --memory 0-64K --churn 1000 --show vmstat");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_THAT(outcome.out, Not(HasSubstr("alloc_failed 0\n")));
}

TEST_F(CommandLineTest, InfoShowsWhatItsOptionsChange) {
  const std::string zoneinfo = "info --memory 0-1G --show zoneinfo ";
  EXPECT_THAT(Guestmm(zoneinfo + "--movable 512M").out,
              ContainsRegex("zone  Movable\n  pages free     131072\n"));
  EXPECT_THAT(Guestmm(zoneinfo + "--cpus 2").out, HasSubstr("    cpu: 1\n"));
  EXPECT_THAT(Guestmm(zoneinfo + "--min-free-kbytes 4096").out,
              ContainsRegex("DMA32\n  pages free     258048\n"
                            "        min      1008\n"));
  EXPECT_THAT(Guestmm(zoneinfo + "--kernel 5.3").out,
              HasSubstr("high:  378\n"));
  EXPECT_THAT(Guestmm(zoneinfo + "--kernel 6.1").out,
              Not(HasSubstr("high:  378\n")));

  const std::string churn =
      "info --memory 0-64M --churn 20000 --show pagetypeinfo ";
  EXPECT_NE(Guestmm(churn + "--kernel 6.1").out,
            Guestmm(churn + "--kernel 5.3").out);
  EXPECT_NE(Guestmm(churn + "--kernel 6.12").out,
            Guestmm(churn + "--kernel 6.1").out);
  // Shuffling changes the order of blocks, not their counts.
  const std::string fresh = "info --show pagetypeinfo ";
  EXPECT_EQ(Guestmm(fresh + "--shuffle 1").out, Guestmm(fresh).out);
}

// The guest that the v12 series was measured on. Its allocator needs no memory
// of that size.
TEST_F(CommandLineTest, InfoShowsAGuestOfTwoNodes) {
  const Outcome outcome = Guestmm(
      "info --memory 0-3G,4G-31G,31G-61G@1 --cpus 24 "
      "--distances '10,20;20,10' --show buddyinfo");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out,
            "Node 0, zone      DMA      0      0      0      0      0      0"
            "      0      0      0      0      4 \n"
            "Node 0, zone    DMA32      0      0      0      0      0      0"
            "      0      0      0      0    764 \n"
            "Node 0, zone   Normal      0      0      0      0      0      0"
            "      0      0      0      0   6912 \n"
            "Node 1, zone   Normal      0      0      0      0      0      0"
            "      0      0      0      0   7680 \n");
}

}  // namespace
}  // namespace guestmm::command_line_test
