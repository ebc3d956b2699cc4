#include "guestmm/base/units.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <sstream>
#include <type_traits>

namespace guestmm::units_test {
namespace {

template <typename A, typename B>
concept Addable = requires(A a, B b) {
  a + b;
};
template <typename A, typename B>
concept Subtractable = requires(A a, B b) {
  a - b;
};
template <typename A, typename B>
concept Multipliable = requires(A a, B b) {
  a* b;
};
template <typename A, typename B>
concept Comparable = requires(A a, B b) {
  a == b;
  a < b;
};

// Operations without a meaning do not compile.
static_assert(!Addable<Pfn, Pfn>);
static_assert(!Addable<Pfn, uint64_t>);
static_assert(!Addable<Pfn, Order>);
static_assert(!Addable<Pfn, Gpa>);
static_assert(!Addable<PageCount, Pfn>);
static_assert(!Addable<PageCount, uint64_t>);
static_assert(!Addable<PageCount, Order>);
static_assert(!Addable<Order, Order>);
static_assert(!Addable<Gpa, Gpa>);
static_assert(!Addable<Gpa, PageCount>);
static_assert(!Subtractable<Pfn, Gpa>);
static_assert(!Subtractable<PageCount, Pfn>);
static_assert(!Subtractable<Gpa, Pfn>);
static_assert(!Subtractable<Order, Order>);
static_assert(!Multipliable<PageCount, PageCount>);
static_assert(!Multipliable<Pfn, uint64_t>);
static_assert(!Comparable<Pfn, Gpa>);
static_assert(!Comparable<Pfn, PageCount>);
static_assert(!Comparable<Pfn, uint64_t>);
static_assert(!Comparable<Order, int>);

// Those with a meaning do.
static_assert(std::is_same_v<decltype(Pfn() + PageCount()), Pfn>);
static_assert(std::is_same_v<decltype(Pfn() - PageCount()), Pfn>);
static_assert(std::is_same_v<decltype(Pfn() - Pfn()), PageCount>);
static_assert(std::is_same_v<decltype(PageCount() * 2), PageCount>);
static_assert(std::is_same_v<decltype(Gpa() + 1), Gpa>);
static_assert(std::is_same_v<decltype(Gpa() - Gpa()), uint64_t>);
static_assert(Comparable<Pfn, Pfn> && Comparable<Gpa, Gpa> &&
              Comparable<Order, Order> && Comparable<PageCount, PageCount>);

// Conversions from numbers and between units are explicit.
template <typename Unit>
constexpr bool kOnlyExplicit =
    !std::is_convertible_v<uint64_t, Unit> &&
    !std::is_convertible_v<int, Unit> && !std::is_convertible_v<Unit, uint64_t>;
static_assert(kOnlyExplicit<Pfn> && kOnlyExplicit<Gpa> &&
              kOnlyExplicit<PageCount> && kOnlyExplicit<Order>);
static_assert(!std::is_constructible_v<Pfn, Gpa>);
static_assert(!std::is_constructible_v<Gpa, Pfn>);
static_assert(!std::is_constructible_v<PageCount, Order>);

// A unit is as cheap as its number.
static_assert(sizeof(Pfn) == sizeof(uint64_t) && sizeof(Order) == 1);

template <typename T>
std::string Printed(const T& value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

TEST(UnitsTest, PfnArithmeticGoesByPages) {
  EXPECT_EQ(Pfn(512) + PageCount(3), Pfn(515));
  EXPECT_EQ(Pfn(515) - PageCount(3), Pfn(512));
  EXPECT_EQ(Pfn(515) - Pfn(512), PageCount(3));
  Pfn pfn(1);
  pfn += PageCount(2);
  EXPECT_EQ(pfn, Pfn(3));
  EXPECT_LT(Pfn(1), Pfn(2));
}

TEST(UnitsTest, PageCountArithmetic) {
  EXPECT_EQ(PageCount(5) + PageCount(3), PageCount(8));
  EXPECT_EQ(PageCount(5) - PageCount(3), PageCount(2));
  EXPECT_EQ(PageCount(5) * 3, PageCount(15));
  EXPECT_EQ(PageCount(5).bytes(), 20480u);
}

TEST(UnitsTest, AnOrderIsTheLogarithmOfItsPages) {
  EXPECT_EQ(Order(0).pages(), PageCount(1));
  EXPECT_EQ(Order(9).pages(), PageCount(512));
  EXPECT_EQ(kPageblockOrder.bytes(), 2 * kMiB);
  EXPECT_EQ(kMaxOrder.bytes(), 4 * kMiB);
}

TEST(UnitsTest, PfnAlignment) {
  EXPECT_TRUE(Pfn(512).IsAligned(Order(9)));
  EXPECT_FALSE(Pfn(513).IsAligned(Order(9)));
  EXPECT_TRUE(Pfn(513).IsAligned(Order(0)));
  EXPECT_EQ(Pfn(1023).AlignDown(Order(9)), Pfn(512));
  EXPECT_EQ(Pfn(513).AlignUp(Order(9)), Pfn(1024));
  EXPECT_EQ(Pfn(512).AlignDown(Order(9)), Pfn(512));
  EXPECT_EQ(Pfn(512).AlignUp(Order(9)), Pfn(512));
}

TEST(UnitsTest, BuddiesAreEachOthers) {
  EXPECT_EQ(Pfn(0).Buddy(Order(9)), Pfn(512));
  EXPECT_EQ(Pfn(512).Buddy(Order(9)), Pfn(0));
  EXPECT_EQ(Pfn(6).Buddy(Order(1)), Pfn(4));
}

TEST(UnitsTest, PfnAndGpaConvert) {
  EXPECT_EQ(ToGpa(Pfn(2)), Gpa(8192));
  EXPECT_EQ(ToPfn(Gpa(8192)), Pfn(2));
  // The page that holds the address.
  EXPECT_EQ(ToPfn(Gpa(12287)), Pfn(2));
}

TEST(UnitsTest, GpaArithmeticGoesByBytes) {
  EXPECT_EQ(Gpa(4096) + 10, Gpa(4106));
  EXPECT_EQ(Gpa(4106) - Gpa(4096), 10u);
  EXPECT_TRUE(Gpa(8192).IsAligned(4096));
  EXPECT_FALSE(Gpa(8193).IsAligned(4096));
}

TEST(UnitsTest, APfnRangeEndsBeforeItsEnd) {
  const PfnRange range = {Pfn(4), Pfn(8)};
  EXPECT_EQ(range.pages(), PageCount(4));
  EXPECT_FALSE(range.Contains(Pfn(3)));
  EXPECT_TRUE(range.Contains(Pfn(4)));
  EXPECT_TRUE(range.Contains(Pfn(7)));
  EXPECT_FALSE(range.Contains(Pfn(8)));
}

TEST(FormatBytesTest, TakesTheLargestUnitThatFits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(kKiB - 1), "1023 B");
  EXPECT_EQ(FormatBytes(kKiB), "1.00 KiB");
  EXPECT_EQ(FormatBytes(512 * kMiB), "512.00 MiB");
  EXPECT_EQ(FormatBytes(4 * kGiB + kGiB / 2), "4.50 GiB");
  EXPECT_EQ(FormatBytes(3 * kTiB), "3.00 TiB");
}

TEST(FormatBytesTest, FormatsTheLargestNumber) {
  EXPECT_EQ(FormatBytes(~uint64_t{0}), "16777216.00 TiB");
}

TEST(ParseBytesTest, TakesDecimalAndHexWithAndWithoutAUnit) {
  EXPECT_EQ(ParseBytes("0"), 0u);
  EXPECT_EQ(ParseBytes("4096"), 4096u);
  EXPECT_EQ(ParseBytes("0x1000"), 4096u);
  EXPECT_EQ(ParseBytes("3KiB"), 3 * kKiB);
  EXPECT_EQ(ParseBytes("3K"), 3 * kKiB);
  EXPECT_EQ(ParseBytes("256 MiB"), 256 * kMiB);
  EXPECT_EQ(ParseBytes("256M"), 256 * kMiB);
  EXPECT_EQ(ParseBytes("5GiB"), 5 * kGiB);
  EXPECT_EQ(ParseBytes("0x10G"), 16 * kGiB);
  EXPECT_EQ(ParseBytes("2T"), 2 * kTiB);
  EXPECT_EQ(ParseBytes("16777215TiB"), 16777215 * kTiB);
}

TEST(ParseBytesTest, TakesEitherCaseAndFractionsOfAUnit) {
  EXPECT_EQ(ParseBytes("5g"), 5 * kGiB);
  EXPECT_EQ(ParseBytes("512m"), 512 * kMiB);
  EXPECT_EQ(ParseBytes("64 kib"), 64 * kKiB);
  EXPECT_EQ(ParseBytes("1.5GiB"), kGiB + kGiB / 2);
  EXPECT_EQ(ParseBytes("0.5k"), 512u);
  EXPECT_EQ(ParseBytes("17B"), 17u);
  // As tables print it, to the nearest byte.
  EXPECT_EQ(ParseBytes("1.10 GiB"), 1181116006u);
  EXPECT_EQ(ParseBytes("0.99999999TiB"), kTiB - 10995);
  EXPECT_EQ(ParseBytes("16777215.5TiB"), 16777215 * kTiB + kTiB / 2);
  // Hexadecimal digits are no unit.
  EXPECT_EQ(ParseBytes("0x1B"), 27u);
}

TEST(ParseBytesTest, ReadsBackWhatIsFormatted) {
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{17}, kKiB, 512 * kMiB, 4 * kGiB + kGiB / 2}) {
    EXPECT_EQ(ParseBytes(FormatBytes(bytes)), bytes);
  }
}

TEST(ParseBytesTest, TakesNothingElse) {
  for (const char* text : {"",
                           " ",
                           "G",
                           "GiB",
                           "0x",
                           "-1",
                           "+1",
                           "1.5",
                           "0.3B",
                           "1.G",
                           ".5G",
                           "1e3",
                           "1.5e3",
                           "1GB",
                           "1kb",
                           "1  G",
                           " 1G",
                           "1G ",
                           "1 ",
                           "1Q",
                           "0xg",
                           "0x1.5",
                           "0x-1",
                           "1,5G",
                           "nanGiB",
                           "18446744073709551616",
                           "16777216TiB",
                           "16777215.99999999999999TiB"}) {
    EXPECT_EQ(ParseBytes(text), std::nullopt) << text;
  }
}

TEST(UnitsTest, PagesOfABlockAndOfARangeOfAddresses) {
  EXPECT_EQ(PagesOf(Pfn(8), Order(3)), (PfnRange{Pfn(8), Pfn(16)}));
  EXPECT_EQ(PagesOf(GpaRange{Gpa(0x8000), 8 * kPageSize}),
            (PfnRange{Pfn(8), Pfn(16)}));
  EXPECT_EQ(PagesOf(GpaRange{Gpa(0x8000), 0}).pages(), PageCount(0));
}

TEST(UnitsTest, PrintsWithTheUnit) {
  EXPECT_EQ(Printed(Pfn(512)), "pfn 0x200");
  EXPECT_EQ(Printed(Gpa(0x200000)), "gpa 0x200000");
  EXPECT_EQ(Printed(Order(9)), "order 9");
  EXPECT_EQ(Printed(PageCount(512)), "512 pages");
  EXPECT_EQ(Printed(GpaRange{Gpa(0x1000), 8192}), "gpa 0x1000 + 8.00 KiB");
}

TEST(UnitsTest, PrintingLeavesTheStreamDecimal) {
  std::ostringstream text;
  text << Pfn(16) << " " << Gpa(16) << " " << 16;
  EXPECT_EQ(text.str(), "pfn 0x10 gpa 0x10 16");
}

}  // namespace
}  // namespace guestmm::units_test
