// main() for a fuzz body where libFuzzer is not: random inputs from a seed, or
// files to replay. The flags are libFuzzer's, and so is the way to use it:
//
//   zone_fuzz                          1000 inputs from seed 1
//   zone_fuzz -runs=50000 -seed=7      50000 inputs from seed 7
//   zone_fuzz crash-1234 corpus/       a file, and the files of a folder
//
// Input i of seed s is input 0 of seed s + i. A crash says its seed, so
// `-seed=SEED -runs=1` is that input again.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size);

namespace {

// What the crash handler prints, written before each input is tried.
std::array<char, 4096> now_trying;

void NowTrying(std::string_view what) {
  const std::string line = "\ncrashed on " + std::string(what) + "\n";
  const std::size_t size = std::min(line.size(), now_trying.size() - 1);
  *std::copy_n(line.data(), size, now_trying.begin()) = '\0';
}

// Async-signal-safe: only write(2), then the signal's own way to die.
void OnCrash(int signal) {
  const std::string_view text(now_trying.data());
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) {
    _exit(EXIT_FAILURE);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t Next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

// Mostly short inputs, where one byte still decides much.
std::vector<std::uint8_t> RandomInput(std::uint64_t seed, std::size_t max_len) {
  Random random(seed);
  const std::size_t longest = max_len >> (random.Next() % 8);
  const std::size_t size = random.Next() % (longest + 1);
  std::vector<std::uint8_t> input(size);
  for (std::uint8_t& byte : input) {
    byte = static_cast<std::uint8_t>(random.Next());
  }
  return input;
}

void Replay(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      Replay(file);
    }
    return;
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "%s: cannot read\n", path.c_str());
    std::exit(EXIT_FAILURE);
  }
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const std::vector<std::uint8_t> input(bytes.begin(), bytes.end());
  NowTrying(path.string());
  LLVMFuzzerTestOneInput(input.data(), input.size());
  std::printf("%s: %zu bytes, passed\n", path.c_str(), input.size());
}

// Takes -NAME=NUMBER into value. A flag that is not a number ends the program.
bool ParseFlag(std::string_view arg, std::string_view name,
               std::uint64_t& value) {
  if (!arg.starts_with(name)) {
    return false;
  }
  const std::string_view text = arg.substr(name.size());
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    std::fprintf(stderr, "%.*s: not a number\n", static_cast<int>(arg.size()),
                 arg.data());
    std::exit(EXIT_FAILURE);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t runs = 1000;
  std::uint64_t seed = 1;
  std::uint64_t max_len = 4096;
  std::vector<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (ParseFlag(arg, "-runs=", runs) || ParseFlag(arg, "-seed=", seed) ||
        ParseFlag(arg, "-max_len=", max_len)) {
      continue;
    }
    if (arg.starts_with("-")) {
      std::fprintf(stderr,
                   "usage: %s [-runs=N] [-seed=N] [-max_len=N] "
                   "[FILE or FOLDER]...\n",
                   argv[0]);
      return EXIT_FAILURE;
    }
    paths.emplace_back(arg);
  }

  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
    // A sanitizer's own handler knows more; it then ends in abort().
    if (const auto previous = std::signal(signal, OnCrash);
        previous != SIG_DFL) {
      std::signal(signal, previous);
    }
  }
  if (!paths.empty()) {
    for (const auto& path : paths) {
      Replay(path);
    }
    return EXIT_SUCCESS;
  }

  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (std::uint64_t i = 0; i < runs; ++i) {
    const std::vector<std::uint8_t> input = RandomInput(seed + i, max_len);
    NowTrying("-runs=1 -seed=" + std::to_string(seed + i));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%llu inputs, passed\n", static_cast<unsigned long long>(runs));
  return EXIT_SUCCESS;
}
