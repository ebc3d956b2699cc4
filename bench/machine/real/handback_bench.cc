// The rate at which memory is handed back to the host: through the whole path
// (free lists, reporter, virtqueue, device, hypervisor), and by a bare loop
// with one system call for each of the same blocks. Each iteration runs both on
// the same RAM, touched anew for each; their ratio is the result.
//
//   scattered  every other 2 MiB block: one range per block for both
//   adjacent   all blocks: the path merges neighbours, the loop does not
//
// Guest and VMM share one thread, except in rows _threads, where each has one,
// and _processes, where the VMM is another process behind a socket. The bare
// loop always runs in the guest. In rows _flight four reports are in flight
// instead of one.
//
// Counters: the path's rate as a multiple of the bare loop's, of each iteration
// the median (path/bare) and the first decile (p10); and the medians of both
// rates.
//
// With a private file, the blocks are fresh memory after a first discard that
// is not measured.
//
// A row that cannot run, or does not hand back all that was freed, is an error,
// and the program's exit status is then 1.

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"
#include "src/reporting/forwarding_policy.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/ram_file.h"

namespace guestmm {
namespace {

using std::chrono::steady_clock;

constexpr Order kBlock = kPageblockOrder;
constexpr uint64_t kBlocks = 256;
constexpr uint64_t kBytes = (kBlocks + 32) * kBlock.bytes();

enum Layout { kScattered, kAdjacent };

// v12, but a pass begins only once Open was called, and with the next free: so
// that it finds all that was freed, and misses nothing that is freed while it
// runs (docs/policies.md, loss i).
class FreedFirst final : public ForwardingPolicy {
 public:
  FreedFirst(size_t capacity, size_t reports)
      : ForwardingPolicy(std::make_unique<V12Policy>(
            V12Options{.threshold = 1, .capacity = capacity})),
        reports_(reports) {}

  size_t reports() const override { return reports_; }
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    ForwardingPolicy::BlockFreed(zone, pfn, order);
    return is_open_.exchange(false);
  }
  void Open() { is_open_ = true; }

 private:
  const size_t reports_;
  std::atomic<bool> is_open_{false};
};

// True once a row has failed.
bool failed = false;

void Fail(benchmark::State& state, const std::string& why) {
  failed = true;
  state.SkipWithError(why.c_str());
}

// The smallest of `values` that is not below `share` of them.
double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share *
                                    static_cast<double>(values.size() - 1))];
}

double SecondsSince(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

// Where the VMM runs.
enum class Vmm { kSameThread, kThread, kProcess };

// Runs a VMM in a process of its own until destroyed.
class VmmProcess {
 public:
  VmmProcess() : folder_(MakeFolder()) {
    std::array<int, 2> ready = {-1, -1};
    GUESTMM_CHECK(pipe(ready.data()) == 0);
    pid_ = fork();
    if (pid_ == 0) Serve(ready[1]);
    close(ready[1]);
    char byte = 0;
    GUESTMM_CHECK(pid_ > 0 && read(ready[0], &byte, 1) == 1) << "no VMM";
    close(ready[0]);
  }
  ~VmmProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    std::filesystem::remove_all(folder_);
  }
  VmmProcess(const VmmProcess&) = delete;
  VmmProcess& operator=(const VmmProcess&) = delete;

  std::string socket() const { return folder_ + "/vmm"; }

 private:
  static std::string MakeFolder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "handback_XXXXXX").string();
    GUESTMM_CHECK(mkdtemp(name.data()) != nullptr);
    return name;
  }
  [[noreturn]] void Serve(int ready) const {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    BalloonFactory balloons(
        {.reporting_queue_size = kBlocks, .max_poll = kBalloonMaxPoll});
    VhostUserServer server(balloons.maker());
    GUESTMM_CHECK(server.Listen(socket()).ok() && write(ready, "", 1) == 1);
    while (true) pause();
  }

  const std::string folder_;
  pid_t pid_ = -1;
};

struct Host {
  HugePages huge_pages = HugePages::kForbid;
  MemorySource source = MemorySource::kAnonymous;
  DiscardOptions discard = {};
  Vmm vmm = Vmm::kSameThread;
  // Blocks in one report, and reports in flight.
  size_t capacity = 16;
  size_t reports = 1;
};

// Discards one block with a single system call, as a VMM does.
void DiscardBare(const Guest& guest, DiscardMethod method, Pfn pfn) {
  const GpaRange block = {.gpa = ToGpa(pfn), .bytes = kBlock.bytes()};
  std::byte* const at = guest.ram().Translate(block)->bytes().data();
  int result = 0;
  switch (method) {
    case DiscardMethod::kFree:
      result = madvise(at, block.bytes, MADV_FREE);
      break;
    case DiscardMethod::kRemove:
      result = madvise(at, block.bytes, MADV_REMOVE);
      break;
    case DiscardMethod::kPunchHole:
      result = fallocate(guest.ram().memfd(),
                         FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(block.gpa.value()),
                         static_cast<off_t>(block.bytes));
      break;
    case DiscardMethod::kBySource:
    case DiscardMethod::kDontNeed:
    case DiscardMethod::kRemap:
      result = madvise(at, block.bytes, MADV_DONTNEED);
      break;
  }
  GUESTMM_CHECK(result == 0) << "the host refused a discard";
}

void BM_HandBack(benchmark::State& state, const Host& host, Layout layout) {
  std::unique_ptr<HugePagePool> pool;
  if (host.source == MemorySource::kHugetlb) {
    auto reserved = HugePagePool::Reserve(kBytes / (2 * kMiB));
    if (!reserved.ok()) {
      return Fail(state, std::string(reserved.status().message()));
    }
    pool = *std::move(reserved);
  }
  std::unique_ptr<RamFile> file;
  if (host.source == MemorySource::kPrivateFile) {
    file = std::make_unique<RamFile>(kBytes, std::byte{0x5a});
  }
  std::unique_ptr<VmmProcess> vmm;
  if (host.vmm == Vmm::kProcess) vmm = std::make_unique<VmmProcess>();
  VirtualTime time(1);
  const bool is_virtual = host.vmm == Vmm::kSameThread;
  FreedFirst* policy = nullptr;
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(kBytes),
                     .huge_pages = host.huge_pages,
                     .memory_source = host.source,
                     .memory_file = file != nullptr ? file->path() : "",
                     .make_policy =
                         [&] {
                           auto made = std::make_unique<FreedFirst>(
                               host.capacity, host.reports);
                           policy = made.get();
                           return made;
                         },
                     .discard = host.discard,
                     .vmm_socket = vmm != nullptr ? vmm->socket() : "",
                     .virtual_time = is_virtual ? &time : nullptr});
  if (!guest.ok()) return Fail(state, std::string(guest.status().message()));
  const DiscardMethod method =
      vmm != nullptr
          ? DiscardMethod::kPunchHole
          : static_cast<const DiscardingHypervisor&>((*guest)->hypervisor())
                .method();
  Vcpu& vcpu = (*guest)->vcpu(0);
  std::vector<Pfn> blocks;
  std::vector<Pfn> kept;
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const std::optional<Pfn> pfn = vcpu.Allocate(kBlock);
    if (!pfn) return Fail(state, "the guest is short of memory");
    const bool odd = (pfn->value() >> kBlock.value()) % 2 == 1;
    (layout == kAdjacent || odd ? blocks : kept).push_back(*pfn);
  }
  const auto touch = [&] {
    for (const Pfn pfn : blocks) vcpu.Touch(pfn, kBlock, 1);
  };

  const auto hand_back = [&] {
    for (const Pfn pfn : blocks) {
      if (pfn == blocks.back()) policy->Open();
      vcpu.Free(pfn, kBlock);
    }
    if (is_virtual) {
      time.RunUntilIdle();
    } else {
      (*guest)->WaitUntilAtRest(Workqueue::kForever);
    }
  };
  const auto allocate = [&] {
    // The blocks that were freed last are allocated first.
    for (Pfn& pfn : blocks) pfn = vcpu.Allocate(kBlock).value();
  };
  const uint64_t bytes = blocks.size() * kBlock.bytes();
  const auto reported = [&] {
    return (*guest)->reporter()->counters().reported_bytes;
  };
  // Lazily freed memory stays resident.
  const bool goes = method != DiscardMethod::kFree;
  const auto left = [&] {
    uint64_t sum = 0;
    for (const Pfn pfn : blocks) {
      const GpaRange range = {.gpa = ToGpa(pfn), .bytes = kBlock.bytes()};
      sum += goes ? (*guest)->ram().ResidentBytes(range).value() : 0;
    }
    return sum;
  };
  hand_back();
  allocate();

  std::vector<double> path;
  std::vector<double> bare;
  std::vector<double> ratios;
  for (auto _ : state) {
    touch();
    auto start = steady_clock::now();
    for (const Pfn pfn : blocks) DiscardBare(**guest, method, pfn);
    bare.push_back(SecondsSince(start));

    touch();
    const uint64_t before = reported();
    start = steady_clock::now();
    hand_back();
    path.push_back(SecondsSince(start));
    state.SetIterationTime(path.back());
    ratios.push_back(bare.back() / path.back());
    const uint64_t sent = reported() - before;
    const uint64_t stayed = left();
    if (sent != bytes || stayed > 0) {
      return Fail(state, absl::StrFormat("of %d bytes freed, %d were reported, "
                                         "and %d are resident",
                                         bytes, sent, stayed));
    }
    allocate();
  }
  const auto rate = [&](const std::vector<double>& seconds) {
    return static_cast<double>(bytes) / Quantile(seconds, 0.5) / kGiB;
  };
  state.counters["path/bare"] = Quantile(ratios, 0.5);
  state.counters["p10"] = Quantile(ratios, 0.1);
  state.counters["path_GiB/s"] = rate(path);
  state.counters["bare_GiB/s"] = rate(bare);
  if (vmm == nullptr && (*guest)->hypervisor().counters().failures > 0) {
    Fail(state, "the host refused a discard");
  }
}

constexpr Host kSmallPages = {};
constexpr Host kSmallPagesOneACall = {
    .discard = {.ranges_per_call = RangesPerCall::kOne}};
constexpr Host kSmallPagesLazy = {.discard = {.method = DiscardMethod::kFree}};
constexpr Host kHugePages = {.huge_pages = HugePages::kAdvise};
constexpr Host kMemfd = {.source = MemorySource::kSharedMemfd};
constexpr Host kMemfdPunch = {.source = MemorySource::kSharedMemfd,
                              .discard = {.method = DiscardMethod::kPunchHole}};
constexpr Host kHugetlb = {.huge_pages = HugePages::kHostDefault,
                           .source = MemorySource::kHugetlb};
constexpr Host kHugetlbPunch = {
    .huge_pages = HugePages::kHostDefault,
    .source = MemorySource::kHugetlb,
    .discard = {.method = DiscardMethod::kPunchHole}};
constexpr Host kMemfdThreads = {.source = MemorySource::kSharedMemfd,
                                .vmm = Vmm::kThread};
constexpr Host kMemfdProcesses = {.source = MemorySource::kSharedMemfd,
                                  .vmm = Vmm::kProcess};
constexpr Host kHugetlbThreads = {.huge_pages = HugePages::kHostDefault,
                                  .source = MemorySource::kHugetlb,
                                  .vmm = Vmm::kThread};
constexpr Host kHugetlbProcesses = {.huge_pages = HugePages::kHostDefault,
                                    .source = MemorySource::kHugetlb,
                                    .vmm = Vmm::kProcess};
constexpr Host kHugetlbThreadsFlight = {.huge_pages = HugePages::kHostDefault,
                                        .source = MemorySource::kHugetlb,
                                        .vmm = Vmm::kThread,
                                        .reports = 4};
constexpr Host kHugetlbProcessesFlight = {.huge_pages = HugePages::kHostDefault,
                                          .source = MemorySource::kHugetlb,
                                          .vmm = Vmm::kProcess,
                                          .reports = 4};
constexpr Host kPrivateFile = {.source = MemorySource::kPrivateFile};

#define GUESTMM_HAND_BACK(name, host)                                \
  BENCHMARK_CAPTURE(BM_HandBack, name##_scattered, host, kScattered) \
      ->UseManualTime();                                             \
  BENCHMARK_CAPTURE(BM_HandBack, name##_adjacent, host, kAdjacent)   \
      ->UseManualTime()

GUESTMM_HAND_BACK(small_pages, kSmallPages);
GUESTMM_HAND_BACK(small_pages_one_a_call, kSmallPagesOneACall);
GUESTMM_HAND_BACK(small_pages_lazy, kSmallPagesLazy);
GUESTMM_HAND_BACK(huge_pages, kHugePages);
GUESTMM_HAND_BACK(memfd, kMemfd);
GUESTMM_HAND_BACK(memfd_punch, kMemfdPunch);
GUESTMM_HAND_BACK(hugetlb, kHugetlb);
GUESTMM_HAND_BACK(hugetlb_punch, kHugetlbPunch);
GUESTMM_HAND_BACK(private_file, kPrivateFile);
GUESTMM_HAND_BACK(memfd_threads, kMemfdThreads);
GUESTMM_HAND_BACK(memfd_processes, kMemfdProcesses);
GUESTMM_HAND_BACK(hugetlb_threads, kHugetlbThreads);
GUESTMM_HAND_BACK(hugetlb_threads_flight, kHugetlbThreadsFlight);
GUESTMM_HAND_BACK(hugetlb_processes, kHugetlbProcesses);
GUESTMM_HAND_BACK(hugetlb_processes_flight, kHugetlbProcessesFlight);

}  // namespace
}  // namespace guestmm

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return guestmm::failed ? 1 : 0;
}
