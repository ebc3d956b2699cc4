#include "src/experiment/density/process_vm_backing.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// As many pages as one system call takes. The first word of each is used:
// pages are lost whole.
constexpr size_t kMaxPages = IOV_MAX;
using Words = std::array<uint64_t, kMaxPages>;

// Differs for each page and stamp, and is never zero, as a discarded page
// reads.
uint64_t WordOf(Pfn pfn, uint64_t stamp) {
  return (pfn.value() * 0x9e3779b97f4a7c15 ^ stamp) | 1;
}

Translation TranslateBlock(const GuestRam& ram, Pfn pfn, Order order) {
  auto block = ram.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
  GUESTMM_CHECK(block.has_value())
      << "block at " << pfn << ", " << order << ", is not in guest RAM";
  return *std::move(block);
}

// Copies between `words` and the first words of the `pages` pages at `page`.
// `copy` is process_vm_writev or process_vm_readv.
template <typename Copy>
void CopyWords(Copy copy, pid_t process, Words& words, std::byte* page,
               size_t pages) {
  std::array<iovec, kMaxPages> remote;
  for (size_t i = 0; i < pages; ++i, page += kPageSize) {
    remote[i] = {page, sizeof(uint64_t)};
  }
  const iovec local = {words.data(), pages * sizeof(uint64_t)};
  const ssize_t copied = copy(process, &local, 1, remote.data(), pages, 0);
  GUESTMM_CHECK(copied == static_cast<ssize_t>(local.iov_len))
      << copied << " of " << local.iov_len
      << " bytes of guest RAM were copied: " << std::strerror(errno);
}

}  // namespace

ProcessVmBacking::ProcessVmBacking(const GuestRam& ram)
    : ram_(ram), process_(getpid()) {}

bool ProcessVmBacking::Permitted() {
  static const bool permitted = [] {
    uint64_t from = 1;
    uint64_t to = 0;
    const iovec remote = {&from, sizeof(from)};
    iovec local = {&to, sizeof(to)};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != sizeof(to)) {
      return false;
    }
    return process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == sizeof(to);
  }();
  return permitted;
}

void ProcessVmBacking::Touch(int, Pfn pfn, Order order, uint64_t stamp) {
  const Translation block = TranslateBlock(ram_, pfn, order);
  std::byte* page = block.bytes().data();
  Words words;
  for (size_t left = order.pages().value(); left > 0;) {
    const size_t pages = std::min(left, kMaxPages);
    for (size_t i = 0; i < pages; ++i) {
      words[i] = WordOf(pfn + PageCount(i), stamp);
    }
    CopyWords(process_vm_writev, process_, words, page, pages);
    pfn += PageCount(pages);
    page += pages * kPageSize;
    left -= pages;
  }
}

std::optional<Pfn> ProcessVmBacking::FindCorrupted(int, Pfn pfn, Order order,
                                                   uint64_t stamp) const {
  const Translation block = TranslateBlock(ram_, pfn, order);
  std::byte* page = block.bytes().data();
  Words words;
  for (size_t left = order.pages().value(); left > 0;) {
    const size_t pages = std::min(left, kMaxPages);
    CopyWords(process_vm_readv, process_, words, page, pages);
    for (size_t i = 0; i < pages; ++i) {
      const Pfn at = pfn + PageCount(i);
      if (words[i] != WordOf(at, stamp)) return at;
    }
    pfn += PageCount(pages);
    page += pages * kPageSize;
    left -= pages;
  }
  return std::nullopt;
}

std::unique_ptr<Backing> MakeFastBacking(const GuestRam& ram) {
  if (ProcessVmBacking::Permitted()) {
    return std::make_unique<ProcessVmBacking>(ram);
  }
  return std::make_unique<RamBacking>(ram);
}

}  // namespace guestmm
