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
// loop always runs in the guest. In those rows v12 misses what is freed during
// its last pass (docs/policies.md, loss i), so the path's rate counts only what
// it reported. In rows _long_reports one report has all blocks instead of 16.
//
// With a private file, the blocks are fresh memory after a first discard that
// is not measured.

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/ram_file.h"

namespace guestmm {
namespace {

using std::chrono::steady_clock;

constexpr Order kBlock = kPageblockOrder;
constexpr uint64_t kBlocks = 256;
constexpr uint64_t kBytes = (kBlocks + 32) * kBlock.bytes();

enum Layout { kScattered, kAdjacent };

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
    BalloonFactory balloons({.reporting_queue_size = kBlocks});
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
  // Blocks in one report.
  size_t capacity = 16;
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
      const std::string why(reserved.status().message());
      state.SkipWithError(why.c_str());
      return;
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
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(kBytes),
                     .huge_pages = host.huge_pages,
                     .memory_source = host.source,
                     .memory_file = file != nullptr ? file->path() : "",
                     .make_policy =
                         [&host] {
                           // Reports all free blocks, so that both hand back
                           // the same.
                           return std::make_unique<V12Policy>(V12Options{
                               .threshold = 1, .capacity = host.capacity});
                         },
                     .discard = host.discard,
                     .vmm_socket = vmm != nullptr ? vmm->socket() : "",
                     .virtual_time = is_virtual ? &time : nullptr});
  if (!guest.ok()) {
    const std::string why(guest.status().message());
    state.SkipWithError(why.c_str());
    return;
  }
  const DiscardMethod method =
      vmm != nullptr
          ? DiscardMethod::kPunchHole
          : static_cast<const DiscardingHypervisor&>((*guest)->hypervisor())
                .method();
  Vcpu& vcpu = (*guest)->vcpu(0);
  std::vector<Pfn> blocks;
  std::vector<Pfn> kept;
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const Pfn pfn = vcpu.Allocate(kBlock).value();
    const bool odd = (pfn.value() >> kBlock.value()) % 2 == 1;
    (layout == kAdjacent || odd ? blocks : kept).push_back(pfn);
  }
  const auto touch = [&] {
    for (const Pfn pfn : blocks) vcpu.Touch(pfn, kBlock, 1);
  };

  const auto hand_back = [&] {
    for (const Pfn pfn : blocks) vcpu.Free(pfn, kBlock);
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
  hand_back();
  allocate();
  const uint64_t reported_before =
      (*guest)->reporter()->counters().reported_bytes;

  double path_seconds = 0;
  double bare_seconds = 0;
  for (auto _ : state) {
    touch();
    auto start = steady_clock::now();
    for (const Pfn pfn : blocks) DiscardBare(**guest, method, pfn);
    bare_seconds += SecondsSince(start);

    touch();
    start = steady_clock::now();
    hand_back();
    const double seconds = SecondsSince(start);
    path_seconds += seconds;
    state.SetIterationTime(seconds);
    allocate();
  }
  const double bytes = static_cast<double>(blocks.size() * kBlock.bytes()) *
                       static_cast<double>(state.iterations());
  const ReporterCounters counters = (*guest)->reporter()->counters();
  const auto reported =
      static_cast<double>(counters.reported_bytes - reported_before);
  const double path_rate = reported / path_seconds;
  const double bare_rate = bytes / bare_seconds;
  state.counters["path_GiB/s"] = path_rate / kGiB;
  state.counters["bare_GiB/s"] = bare_rate / kGiB;
  state.counters["path/bare"] = path_rate / bare_rate;
  state.counters["reported/freed"] = reported / bytes;
  if (vmm == nullptr && (*guest)->hypervisor().counters().failures > 0) {
    state.SkipWithError("the host refused a discard");
  }
}

constexpr Host kSmallPages = {};
constexpr Host kSmallPagesOneACall = {
    .discard = {.ranges_per_call = RangesPerCall::kOne}};
constexpr Host kSmallPagesLazy = {.discard = {.method = DiscardMethod::kFree}};
constexpr Host kHugePages = {.huge_pages = HugePages::kAdvise};
constexpr Host kMemfd = {.source = MemorySource::kSharedMemfd};
constexpr Host kMemfdRemove = {.source = MemorySource::kSharedMemfd,
                               .discard = {.method = DiscardMethod::kRemove}};
constexpr Host kHugetlb = {.huge_pages = HugePages::kHostDefault,
                           .source = MemorySource::kHugetlb};
constexpr Host kHugetlbRemove = {.huge_pages = HugePages::kHostDefault,
                                 .source = MemorySource::kHugetlb,
                                 .discard = {.method = DiscardMethod::kRemove}};
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
constexpr Host kHugetlbProcessesLong = {.huge_pages = HugePages::kHostDefault,
                                        .source = MemorySource::kHugetlb,
                                        .vmm = Vmm::kProcess,
                                        .capacity = kBlocks};
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
GUESTMM_HAND_BACK(memfd_remove, kMemfdRemove);
GUESTMM_HAND_BACK(hugetlb, kHugetlb);
GUESTMM_HAND_BACK(hugetlb_remove, kHugetlbRemove);
GUESTMM_HAND_BACK(private_file, kPrivateFile);
GUESTMM_HAND_BACK(memfd_threads, kMemfdThreads);
GUESTMM_HAND_BACK(memfd_processes, kMemfdProcesses);
GUESTMM_HAND_BACK(hugetlb_threads, kHugetlbThreads);
GUESTMM_HAND_BACK(hugetlb_processes, kHugetlbProcesses);
GUESTMM_HAND_BACK(hugetlb_processes_long_reports, kHugetlbProcessesLong);

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
