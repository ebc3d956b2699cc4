#include "tests/testing/buddy_run.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "guestmm/base/lock.h"
#include "tests/testing/zone_compare.h"

namespace guestmm::buddy {
namespace {

// Empty if all is well; else the error and its place.
std::string RunOnce(const BuddyWorld& world, const Program& program) {
  BuddyRun run(world);
  std::string wrong = run.Compare();
  if (!wrong.empty()) return absl::StrCat("at the start: ", wrong);
  for (size_t i = 0; i < program.size(); ++i) {
    wrong = run.Apply(program[i]);
    if (wrong.empty()) wrong = run.Compare();
    if (!wrong.empty()) {
      return absl::StrCat("step ", i, ", ", ToCode(program[i]), ": ", wrong);
    }
  }
  return "";
}

}  // namespace

bool BuddyRun::Recorder::OnBlockFreed(Zone&, Pfn pfn, Order order) {
  notifications.freed.emplace_back(pfn.value(), order.value());
  return true;
}

void BuddyRun::Recorder::OnBlocksTaken(Zone& zone,
                                       std::span<const PfnRange> runs,
                                       Order order) {
  AllocatorModel::Taken taken = {.zone = static_cast<size_t>(zone.index()),
                                 .blocks = {},
                                 .order = order.value(),
                                 .free_after = zone.free_pages().value()};
  for (const PfnRange& run : runs) {
    for (Pfn pfn = run.start; pfn < run.end; pfn += order.pages()) {
      taken.blocks.push_back(pfn.value());
    }
  }
  notifications.taken.push_back(std::move(taken));
}

void BuddyRun::Recorder::OnMemoryOnline(Zone& zone, PfnRange range) {
  notifications.memory.push_back(AllocatorModel::MemoryEvent(
      true, static_cast<size_t>(zone.index()), range));
}

void BuddyRun::Recorder::OnMemoryOffline(Zone& zone, PfnRange range) {
  notifications.memory.push_back(AllocatorModel::MemoryEvent(
      false, static_cast<size_t>(zone.index()), range));
}

void BuddyRun::Recorder::Wake() { ++notifications.wakes; }

BuddyRun::BuddyRun(const BuddyWorld& world)
    : world_(world),
      allocator_(PageAllocator::Create(world.options).value()),
      hotplug_(*allocator_),
      model_(world.options, world.observed_from) {
  allocator_->SetObserver(&recorder_, world.observed_from, world.taken);
}

BuddyRun::~BuddyRun() {
  for (IsolatedBlock& block : isolated_) {
    Zone& zone = allocator_->ZoneOf(block.pfn());
    LockHolder hold(zone.lock());
    zone.Return(std::move(block));
  }
}

std::string BuddyRun::Apply(const Operation& operation) {
  recorder_.notifications = {};
  model_.ClearNotifications();
  return std::visit([this](const auto& op) { return Do(op); }, operation);
}

std::string BuddyRun::Do(const Alloc& op) {
  const Order order(op.order % (allocator_->max_order().value() + 1));
  Gfp gfp = op.gfp;
  if (gfp.node >= allocator_->nodes()) gfp.node = 0;
  const std::optional<Pfn> pfn = allocator_->Allocate(Cpu(op.cpu), order, gfp);
  const auto expected = model_.Allocate(Cpu(op.cpu), order.value(), gfp);
  if (pfn) live_.emplace_back(*pfn, order);
  constexpr uint64_t kNone = ~uint64_t{0};
  return Differ("allocated page", pfn ? pfn->value() : kNone,
                expected.value_or(kNone));
}

std::string BuddyRun::Do(const Free& op) {
  if (live_.empty()) return "";
  const auto at =
      live_.begin() + static_cast<ptrdiff_t>(op.slot % live_.size());
  const auto [pfn, order] = *at;
  live_.erase(at);
  allocator_->Free(Cpu(op.cpu), pfn, order);
  model_.Free(Cpu(op.cpu), pfn.value());
  return "";
}

std::string BuddyRun::Do(const Drain&) {
  allocator_->DrainPerCpuPages();
  model_.Drain();
  return "";
}

std::string BuddyRun::Do(const Refresh& op) {
  allocator_->RefreshPerCpuPages(Cpu(op.cpu));
  model_.Refresh(Cpu(op.cpu));
  return "";
}

std::string BuddyRun::Do(const Isolate& op) {
  const std::vector<uint64_t> free = FreeBlocks();
  if (free.empty()) return "";
  const uint64_t pfn = free[op.nth % free.size()];
  Zone& zone = allocator_->ZoneOf(Pfn(pfn));
  LockHolder hold(zone.lock());
  std::optional<IsolatedBlock> block = zone.Isolate(Pfn(pfn));
  const bool isolated = block.has_value();
  if (isolated) isolated_.push_back(std::move(*block));
  return Differ("isolated", isolated ? 1 : 0, model_.Isolate(pfn) ? 1 : 0);
}

std::string BuddyRun::Do(const Return& op) {
  if (isolated_.empty()) return "";
  // IsolatedBlock cannot be assigned, so the others move to a new vector.
  const size_t slot = op.slot % isolated_.size();
  std::vector<IsolatedBlock> others;
  std::string wrong;
  for (size_t i = 0; i < isolated_.size(); ++i) {
    IsolatedBlock& block = isolated_[i];
    if (i != slot) {
      others.push_back(std::move(block));
      continue;
    }
    const uint64_t pfn = block.pfn().value();
    Zone& zone = allocator_->ZoneOf(block.pfn());
    LockHolder hold(zone.lock());
    const Order order = zone.Return(std::move(block), op.to);
    wrong = Differ("order after return", static_cast<uint64_t>(order.value()),
                   static_cast<uint64_t>(model_.Return(pfn, op.to)));
  }
  isolated_.swap(others);
  return wrong;
}

std::string BuddyRun::Do(const Mark& op) {
  const std::vector<uint64_t> free = FreeBlocks();
  if (free.empty()) return "";
  const uint64_t pfn = free[op.nth % free.size()];
  Zone& zone = allocator_->ZoneOf(Pfn(pfn));
  LockHolder hold(zone.lock());
  zone.MarkReported(Pfn(pfn));
  model_.Mark(pfn);
  return "";
}

std::string BuddyRun::Do(const Rotate& op) {
  const std::vector<uint64_t> free = FreeBlocks();
  if (free.empty()) return "";
  const uint64_t pfn = free[op.nth % free.size()];
  const ZoneModel& model = model_.zones()[model_.ZoneOf(pfn)];
  Zone& zone = allocator_->ZoneOf(Pfn(pfn));
  LockHolder hold(zone.lock());
  zone.RotateFreeList(Order(model.blocks().at(pfn).order),
                      model.ListTypeOf(pfn), Pfn(pfn));
  model_.Rotate(pfn);
  return "";
}

std::string BuddyRun::Do(const Pin& op) {
  if (live_.empty()) return "";
  const Pfn pfn = live_[op.slot % live_.size()].first;
  allocator_->Pin(pfn);
  model_.Pin(pfn.value());
  pins_.push_back(pfn);
  return "";
}

std::string BuddyRun::Do(const Unpin& op) {
  if (pins_.empty()) return "";
  const auto at = pins_.begin() + static_cast<ptrdiff_t>(op.nth % pins_.size());
  const Pfn pfn = *at;
  pins_.erase(at);
  allocator_->Unpin(Cpu(op.cpu), pfn);
  model_.Unpin(Cpu(op.cpu), pfn.value());
  return "";
}

std::vector<PfnRange> BuddyRun::Sections() const {
  const Order order = allocator_->section_order();
  std::vector<PfnRange> sections;
  for (Pfn start = world_.options.memory.front().start.AlignUp(order);
       start + order.pages() <= allocator_->hotplug_end();
       start += order.pages()) {
    sections.push_back({start, start + order.pages()});
  }
  return sections;
}

bool BuddyRun::IsIsolated(PfnRange section) const {
  return std::any_of(isolated_ranges_.begin(), isolated_ranges_.end(),
                     [&](const auto& other) { return other.range == section; });
}

std::string BuddyRun::Do(const IsolateRange& op) {
  const std::vector<PfnRange> sections = Sections();
  if (sections.empty()) return "";
  const PfnRange section = sections[op.section % sections.size()];
  ZoneModel* const model = model_.ZoneWithAll(section);
  if (model == nullptr || IsIsolated(section)) return "";
  Zone& zone = allocator_->ZoneOf(section.start);
  LockHolder hold(zone.lock());
  isolated_ranges_.push_back({section, zone.IsolatePageblocks(section)});
  return model->IsolatePageblocks(section) == isolated_ranges_.back().types
             ? ""
             : "the pageblocks had other types before";
}

std::string BuddyRun::Do(const RestoreRange& op) {
  if (isolated_ranges_.empty()) return "";
  const auto at = isolated_ranges_.begin() +
                  static_cast<ptrdiff_t>(op.nth % isolated_ranges_.size());
  const IsolatedRange isolated = *at;
  isolated_ranges_.erase(at);
  Zone& zone = allocator_->ZoneOf(isolated.range.start);
  LockHolder hold(zone.lock());
  zone.RestorePageblocks(isolated.range, isolated.types);
  model_.ZoneWithAll(isolated.range)
      ->RestorePageblocks(isolated.range, isolated.types);
  return "";
}

std::string BuddyRun::Do(const TakeOffline& op) {
  const std::vector<PfnRange> sections = Sections();
  if (sections.empty()) return "";
  const PfnRange section = sections[op.section % sections.size()];
  if (IsIsolated(section)) return "";
  const absl::Status status = hotplug_.Offline(section);
  return Differ("taken offline", status.ok() ? 1 : 0,
                model_.Offline(section) ? 1 : 0);
}

std::string BuddyRun::Do(const BringOnline& op) {
  const std::vector<PfnRange> sections = Sections();
  if (sections.empty()) return "";
  const PfnRange section = sections[op.section % sections.size()];
  const ZoneType type = op.movable ? ZoneType::kMovable : ZoneType::kNormal;
  if (model_.ZoneWithAll(section) != nullptr) {
    return Differ("brought online", hotplug_.Online(section, type).ok() ? 1 : 0,
                  0);
  }
  if (hotplug_.StateOf(section.start) == "absent") {
    const absl::Status status = hotplug_.Add(section, /*node=*/0);
    if (!status.ok()) return status.ToString();
  }
  const absl::Status status = hotplug_.Online(section, type);
  if (!status.ok()) return status.ToString();
  // Kernel memory is onlined to the zone whose span contains it, else to
  // Normal.
  auto zone = static_cast<size_t>(type);
  for (size_t low = 0; low < 2 && !op.movable; ++low) {
    const PfnRange span = model_.zones()[low].span();
    if (span.start < section.end && section.start < span.end) zone = low;
  }
  model_.Online(zone, section);
  return "";
}

std::string BuddyRun::ComparePageblocks() const {
  const PageMap& pages = allocator_->pages();
  const Order order = pages.pageblock_order();
  for (Pfn pfn = world_.options.memory.front().start.AlignDown(order);
       pfn < allocator_->hotplug_end(); pfn += order.pages()) {
    const uint64_t number = pfn.value() >> order.value();
    uint64_t zone = PageMap::Pageblock::kNoZone;
    MigrateType type = pages.pageblock(pfn).type;
    for (size_t i = 0; i < model_.zones().size(); ++i) {
      const auto& pageblocks = model_.zones()[i].pageblocks();
      const auto at = pageblocks.find(number);
      if (at == pageblocks.end()) continue;
      zone = i;
      type = at->second;
    }
    std::string wrong =
        Differ(absl::StrCat("zone of the pageblock of ", pfn.value()),
               pages.pageblock(pfn).zone, zone);
    if (!wrong.empty()) return wrong;
    if (pages.pageblock(pfn).type != type) {
      return absl::StrCat("the pageblock of ", pfn.value(), " is ",
                          Name(pages.pageblock(pfn).type).data(),
                          ", by the model ", Name(type).data());
    }
  }
  return "";
}

std::string BuddyRun::CompareCounts() const {
  for (int cpu = 0; cpu < allocator_->cpus(); ++cpu) {
    for (size_t zone = 0; zone < allocator_->zones().size(); ++zone) {
      const PerCpuPages& lists =
          allocator_->per_cpu_pages(cpu, *allocator_->zones()[zone]);
      std::string wrong =
          Differ(absl::StrCat("cached by cpu ", cpu, " of zone ", zone),
                 lists.cached_pages().value(), model_.CachedPages(cpu, zone));
      if (wrong.empty()) {
        wrong = Differ(absl::StrCat("high of cpu ", cpu, " in zone ", zone),
                       lists.high(), model_.High(cpu, zone));
      }
      if (!wrong.empty()) return wrong;
    }
  }
  const PageCounts counts = allocator_->Counts();
  uint64_t allocated = 0;
  for (const ZoneModel& zone : model_.zones()) {
    allocated += zone.PagesIn(PageState::kAllocated);
  }
  std::string wrong = Differ("cached", counts.cached.value(), model_.cached());
  if (wrong.empty()) {
    wrong = Differ("allocated", counts.allocated().value(), allocated);
  }
  const VmStat ours = allocator_->vmstat();
  const VmStat& model = model_.vmstat();
  const auto compare = [&](std::string_view what, uint64_t a, uint64_t b) {
    if (wrong.empty()) wrong = Differ(what, a, b);
  };
  for (size_t type = 0; type < kZoneTypes; ++type) {
    compare("pgalloc", ours.pgalloc[type], model.pgalloc[type]);
    compare("allocstall", ours.allocstall[type], model.allocstall[type]);
  }
  compare("pgfree", ours.pgfree, model.pgfree);
  compare("numa_hit", ours.numa_hit, model.numa_hit);
  compare("numa_miss", ours.numa_miss, model.numa_miss);
  compare("numa_foreign", ours.numa_foreign, model.numa_foreign);
  compare("numa_local", ours.numa_local, model.numa_local);
  compare("numa_other", ours.numa_other, model.numa_other);
  compare("alloc_failed", ours.alloc_failed, model.alloc_failed);
  compare("alloc_failed_isolated", ours.alloc_failed_isolated,
          model.alloc_failed_isolated);
  compare("alloc_failed_isolated_pages", ours.alloc_failed_isolated_pages,
          model.alloc_failed_isolated_pages);
  return wrong;
}

std::string BuddyRun::CompareTold() const {
  const AllocatorModel::Notifications& ours = recorder_.notifications;
  const AllocatorModel::Notifications& model = model_.notifications();
  if (ours.freed != model.freed)
    return "the observer was notified of other blocks";
  const bool tell = world_.taken == TakenBlocks::kTell;
  if (ours.taken !=
      (tell ? model.taken : std::vector<AllocatorModel::Taken>())) {
    return "the observer was notified of other blocks taken";
  }
  if (ours.memory != model.memory) {
    return "the observer was notified of other memory";
  }
  return Differ("wakes", static_cast<uint64_t>(ours.wakes),
                static_cast<uint64_t>(model.wakes));
}

std::string BuddyRun::Compare() const {
  for (size_t i = 0; i < allocator_->zones().size(); ++i) {
    std::string wrong = CompareZone(*allocator_->zones()[i],
                                    allocator_->pages(), model_.zones()[i]);
    if (!wrong.empty()) return absl::StrCat("zone ", i, ", ", wrong);
  }
  std::string wrong = ComparePageblocks();
  if (wrong.empty()) wrong = CompareCounts();
  if (wrong.empty()) wrong = CompareTold();
  if (!wrong.empty()) return wrong;
  const absl::Status status = allocator_->CheckInvariants();
  return status.ok() ? "" : status.ToString();
}

std::vector<uint64_t> BuddyRun::FreeBlocks() const {
  std::vector<uint64_t> free;
  for (const ZoneModel& zone : model_.zones()) {
    for (int type = 0; type < kMigrateTypes; ++type) {
      for (const auto& list : zone.lists(static_cast<MigrateType>(type))) {
        free.insert(free.end(), list.begin(), list.end());
      }
    }
  }
  return free;
}

std::vector<Operation> BuddyRun::Choices() const {
  std::vector<Operation> choices;
  for (int cpu = 0; cpu < allocator_->cpus(); ++cpu) {
    // Larger values fail alike.
    const uint64_t most = 2 * allocator_->Counts().managed.value();
    for (int order = 0; order <= allocator_->max_order().value() &&
                        Order(order).pages().value() <= most;
         ++order) {
      for (const Gfp& gfp : world_.gfps) {
        choices.push_back(Alloc{cpu, order, gfp});
      }
    }
    for (size_t slot = 0; slot < live_.size(); ++slot) {
      choices.push_back(Free{cpu, slot});
    }
    for (size_t nth = 0; nth < pins_.size(); ++nth) {
      choices.push_back(Unpin{cpu, nth});
    }
    if (world_.options.per_cpu_lists == KernelVersion::kV6_12) {
      choices.push_back(Refresh{cpu});
    }
  }
  choices.push_back(Drain{});
  for (size_t nth = 0; nth < FreeBlocks().size(); ++nth) {
    choices.push_back(Isolate{nth});
    if (!world_.reports) continue;
    choices.push_back(Mark{nth});
    choices.push_back(Rotate{nth});
  }
  for (size_t slot = 0; slot < isolated_.size(); ++slot) {
    choices.push_back(Return{slot});
    if (world_.reports) choices.push_back(Return{slot, ReturnTo::kTail});
  }
  for (size_t slot = 0; slot < live_.size() && world_.pins; ++slot) {
    choices.push_back(Pin{slot});
  }
  const std::vector<PfnRange> sections = Sections();
  for (size_t section = 0; section < sections.size(); ++section) {
    choices.push_back(IsolateRange{section});
    choices.push_back(TakeOffline{section});
    choices.push_back(BringOnline{section, false});
    choices.push_back(BringOnline{section, true});
  }
  for (size_t nth = 0; nth < isolated_ranges_.size(); ++nth) {
    choices.push_back(RestoreRange{nth});
  }
  return choices;
}

std::string RunBuddyProgram(const BuddyWorld& world, const Program& program) {
  std::string wrong = RunOnce(world, program);
  if (wrong.empty()) return "";
  // Removes operations, one at a time, while the program still fails.
  Program shortest = program;
  for (bool shorter_still = true; shorter_still;) {
    shorter_still = false;
    for (size_t i = shortest.size(); i-- > 0;) {
      Program shorter = shortest;
      shorter.erase(shorter.begin() + static_cast<ptrdiff_t>(i));
      std::string still_wrong = RunOnce(world, shorter);
      if (still_wrong.empty()) continue;
      shortest = std::move(shorter);
      wrong = std::move(still_wrong);
      shorter_still = true;
    }
  }
  return absl::StrCat(wrong, "\n  EXPECT_EQ(RunBuddyProgram(", world.name, ", ",
                      ToCode(shortest), "), \"\");");
}

}  // namespace guestmm::buddy
