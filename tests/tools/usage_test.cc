// The command line as a newcomer meets it: help, errors, a file of options, the
// man page and the shells' completion.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/tools/command_testing.h"

namespace guestmm::usage_test {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class UsageTest : public CommandTest {
 protected:
  void ExpectRefused(const std::string& arguments, const std::string& line) {
    const Outcome outcome = Guestmm(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.err, line + "\n");
    EXPECT_THAT(outcome.out, IsEmpty());
  }

  // A file of options with that text.
  std::string Config(const std::string& text) {
    std::ofstream(Path("options.toml")) << text;
    return " --config " + Path("options.toml");
  }
};

const char* const kCommands[] = {
    "calibrate", "compare", "density",    "info",
    "replay",    "trace",   "trace info", "trace convert",
    "vmm",       "vmm ctl", "help",       "vmm ctl statistics"};

TEST_F(UsageTest, EveryHelpFitsEightyColumnsAndNamesItsExitStatuses) {
  for (const std::string command : kCommands) {
    const Outcome help = Guestmm("help " + command, "unset COLUMNS; ");
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.out, AllOf(HasSubstr("\nUsage: guestmm " + command),
                                HasSubstr("Exit status: 0: success; ")));
    std::istringstream lines(help.out);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(line.size(), 80u) << line;
    }
    EXPECT_EQ(Guestmm(command + " --help", "unset COLUMNS; ").out, help.out);
  }
  EXPECT_EQ(Guestmm("help").out, Guestmm("--help").out);
}

TEST_F(UsageTest, HelpGroupsOptionsAndEndsWithExamples) {
  const std::string help = Guestmm("help density").out;
  EXPECT_THAT(
      help,
      AllOf(HasSubstr("\nPolicies:\n  --policies "),
            HasSubstr("\nGuests and host:\n  --scale "),
            HasSubstr("\nOutput:\n  --wide "),
            HasSubstr("\nExamples:\n  guestmm density\n"),
            HasSubstr("\nA SIZE is written as in 4096, 64K, 512m, 1.5GiB.\n"),
            HasSubstr("\nA TIME is written as in 100ms, 10s, 2h; ")));
  EXPECT_THAT(Guestmm("help trace info").out, Not(HasSubstr("A SIZE ")));
}

TEST_F(UsageTest, NamesTheWordThatIsWrongAndTheOneThatWasMeant) {
  const std::string commands =
      "must be one of calibrate, compare, density, info, replay, trace, vmm, "
      "help";
  ExpectRefused("", "guestmm: the command " + commands);
  ExpectRefused("nope", "guestmm: nope: " + commands);
  ExpectRefused("densty",
                "guestmm: densty: " + commands + "; did you mean 'density'?");
  ExpectRefused("help densty", "guestmm help: densty: " + commands +
                                   "; did you mean 'density'?");
  ExpectRefused("trace show",
                "guestmm trace: show: must be one of convert, info, print");
  ExpectRefused("--nope", "guestmm: --nope: must be an option of guestmm");
  ExpectRefused("density --sclae=1",
                "guestmm density: --sclae: must be an option of guestmm "
                "density; did you mean '--scale'?");
  ExpectRefused("info -- extra",
                "guestmm info: extra: must be an option of guestmm info");
  ExpectRefused("density extra",
                "guestmm density: extra: must be an option of guestmm density");
  ExpectRefused("density --policies linx",
                "guestmm density: --policies=linx: must be one of off, v12, "
                "v12-hotplug, linux, adaptive; did you mean 'linux'?");
  ExpectRefused("density --mechanisms reportng:linux",
                "guestmm density: --mechanisms=reportng:linux: must be one of "
                "off, reporting; did you mean 'reporting'?");
  ExpectRefused("compare --policies linux:ordr=5",
                "guestmm compare: --policies=linux:ordr=5: ordr must be one of "
                "order, capacity, delay; did you mean 'order'?");
  ExpectRefused("replay D E",
                "guestmm replay: E: must be left out, as guestmm replay takes "
                "one PATH");
  ExpectRefused("help replay extra",
                "guestmm help: extra: must be left out, as guestmm replay has "
                "no commands of its own");
  ExpectRefused("trace --json info t.txt",
                "guestmm trace info: --json: must come after guestmm trace "
                "info, whose option it is");
  EXPECT_THAT(Guestmm("compare --workloads brust").err,
              EndsWith("; did you mean 'burst'?\n"));
}

TEST_F(UsageTest, NamesWhatIsMissingOrExcluded) {
  ExpectRefused("density --scale",
                "guestmm density: --scale: must have a value");
  ExpectRefused("density --seed 1 --seed 2",
                "guestmm density: --seed: must be given once");
  ExpectRefused("density --wide=much",
                "guestmm density: --wide: must have no value");
  ExpectRefused("replay", "guestmm replay: path: must be given");
  ExpectRefused("vmm ctl status",
                "guestmm vmm ctl status: --control: must be given");
  ExpectRefused("compare --real --virtual",
                "guestmm compare: --virtual: must be unset with --real");
  ExpectRefused("calibrate --force",
                "guestmm calibrate: --force: must be given with --out");
  ExpectRefused("density --force",
                "guestmm density: --force: must be given with --out");
  for (const std::string command :
       {"replay x --json", "density --csv", "trace info x --json"}) {
    EXPECT_THAT(Guestmm(command + " --wide").err,
                ::testing::HasSubstr(": must be unset with --"))
        << command;
  }
  ExpectRefused("trace convert t.txt",
                "guestmm trace convert: PATHS: must be two or more");
  ExpectRefused("vmm ctl --control x target 1.5",
                "guestmm vmm ctl target: SIZE=1.5: must be a size, as in "
                "512MiB");
  ExpectRefused("vmm ctl --control x statistics --interval soon",
                "guestmm vmm ctl statistics: --interval=soon: must be a time, "
                "as in 10s");
}

// Not what was made of it.
TEST_F(UsageTest, NamesAValueAsItWasTyped) {
  ExpectRefused("density --guest-memory 0.3g",
                "guestmm density: --guest-memory=0.3g: must be whole pages of "
                "4 KiB");
  ExpectRefused("replay . --khugepaged maybe --truth",
                "guestmm replay: --khugepaged=maybe: must be on or off");
}

TEST_F(UsageTest, RefusesOptionsThatHaveNoEffect) {
  ExpectRefused("replay " GUESTMM_DATA "/procs --khugepaged on --granule 4KiB",
                "guestmm replay: --khugepaged=on: must be off with granules "
                "below 2 MiB: without huge pages it has no effect");
  ExpectRefused("compare --repeats 3",
                "guestmm compare: --repeats=3: must be unset in virtual time; "
                "runs are deterministic");
  ExpectRefused("compare --real --costs costs.json",
                "guestmm compare: --costs=costs.json: must be unset with "
                "--real, which has real ones");
  ExpectRefused("density --scale 1 --guest-memory 1g --host-memory 2g",
                "guestmm density: --scale=1: must be unset with both "
                "--guest-memory and --host-memory");
  ExpectRefused("info --seed 3",
                "guestmm info: --seed=3: must be unset without --churn");
  ExpectRefused("info --json --show vmstat",
                "guestmm info: --show=vmstat: must be unset with --json, which "
                "has all of them");
  ExpectRefused("vmm --fd 3 --mode 600",
                "guestmm vmm: --mode=600: must be unset with --fd");
}

TEST_F(UsageTest, TakesOptionsFromAFile) {
  const std::string file = Config(
      "[density]\nscale = 0.02\n"
      "policies = [\"off\", \"linux\"]\n"
      "max-guests = 2\nreal-time = false\nsettle = \"100ms\"\n"
      "[info]\nshow = \"vmstat\"\n");
  const Outcome density = Guestmm("density --max-guests 1" + file);
  EXPECT_EQ(density.status, 0) << density.err;
  // The command line comes first.
  EXPECT_THAT(density.out,
              AllOf(HasSubstr("; in virtual time"), HasSubstr("\nlinux "),
                    Not(HasSubstr("\nv12 ")),
                    HasSubstr("\noff stopped early: max-guests 1\n")));
  EXPECT_THAT(Guestmm("info" + file).out, StartsWith("nr_free_pages "));
  EXPECT_THAT(Guestmm("info" + Config("show = \"vmstat\"\n")).out,
              StartsWith("nr_free_pages "));
  EXPECT_THAT(Guestmm("info --config -", "echo 'show = \"vmstat\"' | ").out,
              StartsWith("nr_free_pages "));
}

TEST_F(UsageTest, NamesTheFileOfOptionsAndTheKeyThatIsWrong) {
  const std::string file = Path("options.toml");
  ExpectRefused("density" + Config("scael = 1\n"),
                "guestmm density: " + file +
                    ": --scael: must be an option of guestmm density; did you "
                    "mean '--scale'?");
  ExpectRefused("density" + Config("[compare]\nrests = 1\n"),
                "guestmm density: " + file +
                    ": --rests: must be an option of guestmm compare; did you "
                    "mean '--rest'?");
  EXPECT_THAT(Guestmm("density" + Config("[densty]\nscale = 1\n")).err,
              AllOf(StartsWith("guestmm density: " + file + ": densty: must "),
                    EndsWith("; did you mean 'density'?\n")));
  ExpectRefused("density --config " + Path("none"),
                "guestmm density: --config=" + Path("none") +
                    ": must be a file that can be read");
}

// Also where the value is checked with others, when the command runs.
TEST_F(UsageTest, NamesTheFileThatAValueIsFrom) {
  const std::string file = "guestmm density: " + Path("options.toml") + ": ";
  ExpectRefused("density" + Config("host-memory = \"3Q\"\n"),
                file +
                    "--host-memory=3Q: must be a size, as in 256MiB, 0 to "
                    "64TiB");
  ExpectRefused("density" + Config("host-memory = \"1.0KiB\"\n"),
                file + "--host-memory=1.0KiB: must be 512MiB to 64TiB");
  ExpectRefused("density --host-memory 1.0KiB" + Config("host-memory = 1\n"),
                "guestmm density: --host-memory=1.0KiB: must be 512MiB to "
                "64TiB");
  ExpectRefused("density" + Config("host-memory = 300 MiB\n"),
                file +
                    "--host-memory=300 MiB: must be one value, given once; "
                    "one with blanks must be quoted: host-memory = \"300 "
                    "MiB\"");
  ExpectRefused("density" + Config("seed = 1\nseed = 2\n"),
                file +
                    "--seed=1 2: must be one value, given once; one with "
                    "blanks must be quoted: seed = \"1 2\"");
  // What is not of the command is not checked.
  EXPECT_EQ(Guestmm("info" + Config("[density]\nseed = 1 2\n")).status, 0);
}

TEST_F(UsageTest, AFileOfOptionsIsText) {
  ExpectRefused("info" + Config("show = \"vmstat\"\n#\x1b[2J\n"),
                "guestmm info: " + Path("options.toml") +
                    ":2: must be text; it has the byte 0x1b");
  ExpectRefused("info" + Config("\x9bs = 1\n"),
                "guestmm info: " + Path("options.toml") +
                    ": --?s: must be an option of guestmm info");
  EXPECT_THAT(Guestmm("info" + Config("\xef\xbb\xbfshow = \"vmstat\"\r\n")).out,
              StartsWith("nr_free_pages "));
}

TEST_F(UsageTest, AFileOfOptionsMayHaveArgumentsAndBeGivenAhead) {
  const std::string trace = GUESTMM_DATA "/procs/trace.gmtrace";
  const std::string file =
      Config("[trace.info]\npaths = \"" + trace + "\"\njson = true\n");
  const std::string info = Guestmm("trace info --json " + trace).out;
  EXPECT_THAT(info, StartsWith("{\n"));
  EXPECT_EQ(Guestmm("trace info" + file).out, info);
  EXPECT_EQ(Guestmm("trace" + file + " info").out, info);
  EXPECT_EQ(Guestmm(file + " trace info").out, info);
  EXPECT_EQ(
      Guestmm("trace info" + Config("PATHS = \"" + trace + "\"\n")).status, 0);
}

TEST_F(UsageTest, AnythingThatATableOrHelpPrintsIsASize) {
  for (const std::string size : {"'64.00 MiB'", "64MiB", "64m", "65536K"}) {
    EXPECT_THAT(
        Guestmm("info --show zoneinfo --memory 0-1G --movable " + size).out,
        HasSubstr("Movable\n  pages free     16384\n"));
  }
}

TEST_F(UsageTest, ADashIsStandardInputOrOutput) {
  std::ofstream(Path("trace.txt"))
      << "  task-1 [000] .....  10.000000: mm_page_alloc: page=0 pfn=0x800 "
         "order=9 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE\n";
  const std::string from_pipe = "cat " + Path("trace.txt") + " | ";
  EXPECT_THAT(Guestmm("trace info -", from_pipe).out,
              ContainsRegex("\nallocations +1\n"));
  const std::string binary = Path("trace.gmtrace");
  const Outcome converted = Guestmm("trace convert - - > " + binary, from_pipe);
  EXPECT_THAT(converted.err, StartsWith("/dev/stdout: 1 event, "));
  EXPECT_THAT(Guestmm("trace info " + binary).out,
              ContainsRegex("\nallocations +1\n"));
  EXPECT_THAT(Guestmm("replay - --memory 0-64M --policies off", from_pipe).out,
              StartsWith("replay of /dev/stdin, in virtual time: 1 events"));
}

TEST_F(UsageTest, TheManPageAndCompletionHaveEveryOption) {
  const std::string man = Guestmm("generate man").out;
  const std::string bash = Guestmm("generate bash").out;
  const std::string zsh = Guestmm("generate zsh").out;
  const std::string fish = Guestmm("generate fish").out;
  for (const std::string option :
       {"policies", "scale", "workloads", "truth", "skip-bad", "churn",
        "control", "interval", "force", "config", "wide"}) {
    std::string roff = option;
    if (option == "skip-bad") roff = "skip\\-bad";
    EXPECT_THAT(man, HasSubstr("\\-\\-" + roff));
    EXPECT_THAT(bash, HasSubstr("--" + option));
    EXPECT_THAT(zsh, HasSubstr("'--" + option + ":"));
    EXPECT_THAT(fish, HasSubstr(" -l " + option));
  }
  EXPECT_THAT(man, AllOf(StartsWith(".TH GUESTMM 1 "),
                         HasSubstr("\n.SH GUESTMM TRACE INFO\n"),
                         HasSubstr("\n.SH NOTES\n"),
                         // Nothing but requests begins with a dot.
                         Not(HasSubstr("\n.\\"))));
  EXPECT_THAT(zsh, StartsWith("#compdef guestmm\n"));
}

TEST_F(UsageTest, BashCompletesCommandsOptionsAndValues) {
  std::ofstream(Path("completion")) << Guestmm("generate bash").out;
  const auto completed = [&](const std::string& words, int at) {
    const std::string script = "source " + Path("completion") +
                               "; COMP_WORDS=(guestmm " + words +
                               "); COMP_CWORD=" + std::to_string(at) +
                               "; _guestmm; echo \"${COMPREPLY[@]}\"";
    std::ofstream(Path("script")) << script;
    return Shell("bash " + Path("script")).out;
  };
  EXPECT_EQ(completed("de", 1), "density\n");
  EXPECT_EQ(completed("trace in", 2), "info\n");
  EXPECT_EQ(completed("density --hyp", 2), "--hypervisor\n");
  EXPECT_EQ(completed("density --hypervisor ''", 3), "madvise none\n");
  EXPECT_EQ(completed("trace info --lim", 3), "\n");
}

}  // namespace
}  // namespace guestmm::usage_test
