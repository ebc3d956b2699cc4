#include "tools/guestmm/table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>
#include <string>

#include "tools/guestmm/terminal.h"

namespace guestmm::table_test {
namespace {

using tools::Table;
using tools::Wrap;
using tools::WrapClauses;
using tools::WrapCommand;

class TableTest : public ::testing::Test {
 protected:
  ~TableTest() override { unsetenv("COLUMNS"); }

  static std::string Printed(const Table& table, const char* columns) {
    setenv("COLUMNS", columns, /*overwrite=*/1);
    std::ostringstream text;
    text << table;
    return text.str();
  }
};

TEST_F(TableTest, LeavesOutColumnsByTheirRankUntilItFits) {
  Table table({"policy", {"work", 2}, "guests", {"kicks", 2}, {"reports", 1}});
  table.AddRow({"v12", "5", "24", "1", "187"});
  EXPECT_EQ(Printed(table, "36"),
            "policy  work  guests  kicks  reports\n"
            "------  ----  ------  -----  -------\n"
            "v12        5      24      1      187\n");
  EXPECT_EQ(Printed(table, "35"),
            "policy  work  guests  reports\n"
            "------  ----  ------  -------\n"
            "v12        5      24      187\n"
            "--wide also shows: kicks\n");
  EXPECT_EQ(Printed(table, "14"),
            "policy  guests\n"
            "------  ------\n"
            "v12         24\n"
            "--wide also\n"
            "shows: work,\n"
            "kicks, reports\n");
  // The first column alone says nothing.
  EXPECT_EQ(Printed(table, "13"),
            "policy   v12\nwork     5\nguests   24\nkicks    1\n"
            "reports  187\n");
}

TEST_F(TableTest, PrintsBlocksWhereColumnsDoNotFit) {
  Table table({"guest", "target"}, Table::kBlocks);
  table.AddRow({"1", "1.00 GiB"});
  table.AddRow({"2", "2.00 GiB"});
  EXPECT_EQ(Printed(table, "15"),
            "guest    target\n-----  --------\n"
            "1      1.00 GiB\n2      2.00 GiB\n");
  EXPECT_EQ(Printed(table, "14"),
            "guest   1\ntarget  1.00 GiB\n"
            "\nguest   2\ntarget  2.00 GiB\n");
}

TEST(WrapTest, BreaksLinesAtBlanks) {
  EXPECT_EQ(WrapClauses("", 10), "");
  EXPECT_EQ(WrapClauses("a: 1.5 % of b, 2 % of c\n\nd e\n", 15),
            "a: 1.5 % of b,\n2 % of c\n\nd e\n");
  EXPECT_EQ(WrapClauses("one two three, four", 8), "one two\nthree,\nfour");
  EXPECT_EQ(Wrap("", 10), "");
  EXPECT_EQ(Wrap("one two", 7), "one two");
  EXPECT_EQ(Wrap("one two", 6), "one\ntwo");
  EXPECT_EQ(Wrap("unbreakable one", 5), "unbreakable\none");
  EXPECT_EQ(Wrap("one two\nthree\n", 80), "one two\nthree\n");
}

TEST(WrapTest, ACommandsLinesContinue) {
  EXPECT_EQ(WrapCommand("run a b --c d", 80), "run a b --c d");
  EXPECT_EQ(WrapCommand("run a b --c d", 13), "run a b --c d");
  EXPECT_EQ(WrapCommand("run a b --c d", 9), "run a b \\\n--c d");
  EXPECT_EQ(WrapCommand("run a b --c d", 11, 2), "run a b \\\n  --c d");
}

TEST(WrapTest, KeepsTheMarginOfALine) {
  EXPECT_EQ(Wrap("  * one two", 8), "  * one\n  two");
  // As the text beside an option's name.
  EXPECT_EQ(Wrap("one two\nthree", 7, 3), "one\n   two\n   three");
}

}  // namespace
}  // namespace guestmm::table_test
