#include "guestmm/mm/migrate/memory_hotplug.h"

#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace guestmm {
namespace {

std::string Describe(PfnRange range) {
  return absl::StrFormat("memory of pages [0x%x, 0x%x)", range.start.value(),
                         range.end.value());
}

std::string Describe(Pfn pfn) {
  return absl::StrFormat("pfn 0x%x", pfn.value());
}

GpaRange ToGpaRange(PfnRange range) {
  return {.gpa = ToGpa(range.start), .bytes = range.pages().bytes()};
}

}  // namespace

// Marks an operation as in progress for its lifetime; has an error status if
// another one is.
class MemoryHotplug::Operation {
 public:
  explicit Operation(MemoryHotplug& hotplug) : hotplug_(hotplug) {
    LockHolder hold(hotplug_.lock_);
    if (hotplug_.under_way_) {
      status_ = absl::UnavailableError(
          "another hotplug operation is in progress; try again");
      return;
    }
    hotplug_.under_way_ = true;
  }
  ~Operation() {
    if (!status_.ok()) return;
    LockHolder hold(hotplug_.lock_);
    hotplug_.under_way_ = false;
  }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  const absl::Status& status() const { return status_; }

 private:
  MemoryHotplug& hotplug_;
  absl::Status status_;
};

absl::Status MemoryHotplug::CheckRange(PfnRange range) const {
  const Order section = allocator_.section_order();
  if (range.end <= range.start || !range.start.IsAligned(section) ||
      !range.end.IsAligned(section)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(range), ": must be whole memory blocks of ",
                     FormatBytes(section.bytes())));
  }
  if (range.end > allocator_.hotplug_end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(range), ": must end at or below hotplug_end, ",
                     Describe(allocator_.hotplug_end())));
  }
  return absl::OkStatus();
}

absl::Status MemoryHotplug::CheckOffline(PfnRange range) const {
  for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
    if (offline_.contains(pfn)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        Describe(range), ": the memory block at ", Describe(pfn),
        " must be offline, but is ",
        allocator_.AnyOnline({pfn, pfn + section_pages()}) ? "online"
                                                           : "absent"));
  }
  return absl::OkStatus();
}

std::string_view MemoryHotplug::StateOf(Pfn pfn) const {
  const Pfn start = pfn.AlignDown(allocator_.section_order());
  LockHolder hold(lock_);
  if (offline_.contains(start)) return "offline";
  return allocator_.AnyOnline({start, start + section_pages()}) ? "online"
                                                                : "absent";
}

absl::Status MemoryHotplug::Add(PfnRange range, int node) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  if (node < 0 || node >= allocator_.nodes()) {
    return absl::InvalidArgumentError(absl::StrCat(Describe(range), ": node ",
                                                   node, " must be 0 to ",
                                                   allocator_.nodes() - 1));
  }
  const Operation operation(*this);
  if (!operation.status().ok()) return operation.status();
  LockHolder hold(lock_);
  for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
    if (offline_.contains(pfn) ||
        allocator_.AnyOnline({pfn, pfn + section_pages()})) {
      return absl::AlreadyExistsError(
          absl::StrCat(Describe(range), ": the memory block at ", Describe(pfn),
                       " must be absent"));
    }
  }
  if (ram_ != nullptr) {
    absl::Status status = ram_->AddRegion(ToGpaRange(range));
    if (!status.ok()) return status;
  }
  for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
    offline_[pfn] = node;
  }
  return absl::OkStatus();
}

Zone& MemoryHotplug::KernelZone(PfnRange range, int node) const {
  for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32}) {
    Zone& zone = allocator_.zone(node, type);
    const PfnRange span = zone.span();
    if (span.start < range.end && range.start < span.end) return zone;
  }
  return allocator_.zone(node, ZoneType::kNormal);
}

absl::Status MemoryHotplug::Online(PfnRange range, ZoneType type) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  if (type != ZoneType::kNormal && type != ZoneType::kMovable) {
    return absl::InvalidArgumentError(
        absl::StrCat(Describe(range), ": zone ", std::string(Name(type)),
                     " must be Normal or Movable"));
  }
  const Operation operation(*this);
  if (!operation.status().ok()) return operation.status();
  std::vector<int> nodes;
  {
    LockHolder hold(lock_);
    if (absl::Status status = CheckOffline(range); !status.ok()) return status;
    for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
      nodes.push_back(offline_.at(pfn));
    }
  }
  // Outside the lock, since onlining wakes the observer.
  Pfn pfn = range.start;
  for (const int node : nodes) {
    const PfnRange block = {pfn, pfn + section_pages()};
    allocator_.OnlineMemory(type == ZoneType::kMovable
                                ? allocator_.zone(node, type)
                                : KernelZone(block, node),
                            block);
    LockHolder hold(lock_);
    offline_.erase(pfn);
    pfn = block.end;
  }
  return absl::OkStatus();
}

absl::StatusOr<Zone*> MemoryHotplug::OneZone(PfnRange range) const {
  const PageMap& pages = allocator_.pages();
  const uint8_t zone = pages.pageblock(range.start).zone;
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    if (pages.pageblock(pfn).zone == PageMap::Pageblock::kNoZone ||
        pages.IsOffline(pfn)) {
      return absl::FailedPreconditionError(absl::StrCat(
          Describe(range), ": ", Describe(pfn), " must be online"));
    }
    if (pages.pageblock(pfn).zone != zone) {
      return absl::FailedPreconditionError(
          absl::StrCat(Describe(range), ": ", Describe(pfn),
                       " must be in the zone of ", Describe(range.start)));
    }
  }
  return allocator_.zones()[zone].get();
}

absl::Status MemoryHotplug::WaitUntilFree(Zone& zone, PfnRange range) {
  while (true) {
    // Also waits for vCPUs that read a pageblock before it was isolated; from
    // here on, pages that are freed in the range go to the zone at once.
    allocator_.DrainPerCpuPages();
    Zone::Busy busy;
    {
      LockHolder hold(zone.lock());
      busy = zone.FindBusy(range);
      if (busy.in_use) {
        // Read in the same hold: a page that is freed right after it was found
        // would be described as free.
        std::ostringstream text;
        text << Describe(range) << ": " << Describe(*busy.in_use)
             << " is in use: " << allocator_.pages().Get(*busy.in_use);
        return absl::FailedPreconditionError(text.str());
      }
    }
    if (!busy.isolated) return absl::OkStatus();
    const bool returned = reporting_ != nullptr && reporting_->MayWait() &&
                          reporting_->WaitUntil([&] {
                            LockHolder hold(zone.lock());
                            return !zone.FindBusy(range).isolated;
                          });
    if (!returned) {
      return absl::FailedPreconditionError(
          absl::StrCat(Describe(range), ": ", Describe(*busy.isolated),
                       " is isolated for the host, which does not return it"));
    }
  }
}

absl::Status MemoryHotplug::Offline(PfnRange range) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  const Operation operation(*this);
  if (!operation.status().ok()) return operation.status();
  const absl::StatusOr<Zone*> zone = OneZone(range);
  if (!zone.ok()) return zone.status();
  std::vector<MigrateType> types;
  {
    LockHolder hold((*zone)->lock());
    types = (*zone)->IsolatePageblocks(range);
  }
  if (absl::Status status = WaitUntilFree(**zone, range); !status.ok()) {
    LockHolder hold((*zone)->lock());
    (*zone)->RestorePageblocks(range, types);
    return status;
  }
  {
    // Before it leaves the zone, so that StateOf never reports it as absent.
    LockHolder hold(lock_);
    for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
      offline_[pfn] = (*zone)->node();
    }
  }
  allocator_.OfflineMemory(**zone, range);
  return absl::OkStatus();
}

absl::Status MemoryHotplug::Remove(PfnRange range) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  const Operation operation(*this);
  if (!operation.status().ok()) return operation.status();
  LockHolder hold(lock_);
  if (absl::Status status = CheckOffline(range); !status.ok()) return status;
  if (ram_ != nullptr) {
    absl::Status status = ram_->RemoveRegion(ToGpaRange(range));
    if (!status.ok()) return status;
  }
  allocator_.ForgetMemory(range);
  for (Pfn pfn = range.start; pfn < range.end; pfn += section_pages()) {
    offline_.erase(pfn);
  }
  return absl::OkStatus();
}

}  // namespace guestmm
