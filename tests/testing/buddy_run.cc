#include "tests/testing/buddy_run.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "guestmm/base/lock.h"

namespace guestmm::buddy {
namespace {

std::vector<Watermarks> WatermarksOf(const PageAllocator& allocator) {
  std::vector<Watermarks> watermarks;
  for (const auto& zone : allocator.zones()) {
    watermarks.push_back(zone->watermarks());
  }
  return watermarks;
}

std::string Differ(std::string_view what, uint64_t ours, uint64_t model) {
  if (ours == model) return "";
  std::string text(what);
  absl::StrAppend(&text, ": ", ours, ", by the model ", model);
  return text;
}

std::string CompareZone(const Zone& zone, const PageMap& pages,
                        const ZoneModel& model) {
  for (int order = 0; order <= zone.max_order().value(); ++order) {
    std::vector<uint64_t> listed;
    {
      LockHolder hold(zone.lock());
      zone.ForEachFreeBlock(Order(order), MigrateType::kMovable,
                            [&](Pfn pfn) { listed.push_back(pfn.value()); });
    }
    const auto& expected = model.lists()[static_cast<size_t>(order)];
    if (!std::equal(listed.begin(), listed.end(), expected.begin(),
                    expected.end())) {
      std::string text = absl::StrCat("list of order ", order, ":");
      for (const uint64_t pfn : listed) absl::StrAppend(&text, " ", pfn);
      absl::StrAppend(&text, ", by the model:");
      for (const uint64_t pfn : expected) absl::StrAppend(&text, " ", pfn);
      return text;
    }
  }
  for (const auto& [pfn, block] : model.blocks()) {
    const PageInfo info = pages.Get(Pfn(pfn));
    if (info != PageInfo{block.state, Order(block.order)}) {
      return absl::StrCat("page ", pfn, " is not ", Name(block.state).data(),
                          " of order ", block.order);
    }
  }
  std::string wrong = Differ("free", zone.free_pages().value(),
                             model.PagesIn(PageState::kFree));
  if (!wrong.empty()) return wrong;
  wrong = Differ("isolated", zone.isolated_pages().value(),
                 model.PagesIn(PageState::kIsolated));
  if (!wrong.empty()) return wrong;
  return Differ("managed", zone.managed_pages().value(), model.managed());
}

// Empty, or what went wrong and where.
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
  told.freed.emplace_back(pfn.value(), order.value());
  return true;
}

void BuddyRun::Recorder::Wake() { ++told.wakes; }

BuddyRun::BuddyRun(const BuddyWorld& world)
    : allocator_(PageAllocator::Create(world.options).value()),
      model_(world.options, world.observed_from, WatermarksOf(*allocator_)) {
  allocator_->SetObserver(&recorder_, world.observed_from);
}

BuddyRun::~BuddyRun() {
  for (IsolatedBlock& block : isolated_) {
    Zone& zone = block.zone();
    LockHolder hold(zone.lock());
    zone.Return(std::move(block));
  }
}

std::string BuddyRun::Apply(const Operation& operation) {
  return std::visit([this](const auto& op) { return Do(op); }, operation);
}

std::string BuddyRun::Do(const Alloc& op) {
  const Order order(op.order % (allocator_->max_order().value() + 1));
  const std::optional<Pfn> pfn = allocator_->Allocate(Cpu(op.cpu), order);
  const auto expected = model_.Allocate(Cpu(op.cpu), order.value());
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
    Zone& zone = block.zone();
    LockHolder hold(zone.lock());
    const Order order = zone.Return(std::move(block));
    wrong = Differ("order after return", static_cast<uint64_t>(order.value()),
                   static_cast<uint64_t>(model_.Return(pfn)));
  }
  isolated_.swap(others);
  return wrong;
}

std::string BuddyRun::Compare() const {
  for (size_t i = 0; i < allocator_->zones().size(); ++i) {
    std::string wrong = CompareZone(*allocator_->zones()[i],
                                    allocator_->pages(), model_.zones()[i]);
    if (!wrong.empty()) return absl::StrCat("zone ", i, ", ", wrong);
  }
  std::string wrong =
      Differ("cached", allocator_->Counts().cached.value(), model_.cached());
  if (!wrong.empty()) return wrong;
  if (recorder_.told.freed != model_.told().freed) {
    return "the observer was told of other blocks";
  }
  wrong = Differ("wakes", static_cast<uint64_t>(recorder_.told.wakes),
                 static_cast<uint64_t>(model_.told().wakes));
  if (!wrong.empty()) return wrong;
  const absl::Status status = allocator_->CheckInvariants();
  return status.ok() ? "" : status.ToString();
}

std::vector<uint64_t> BuddyRun::FreeBlocks() const {
  std::vector<uint64_t> free;
  for (const ZoneModel& zone : model_.zones()) {
    for (const std::list<uint64_t>& list : zone.lists()) {
      free.insert(free.end(), list.begin(), list.end());
    }
  }
  return free;
}

std::vector<Operation> BuddyRun::Choices() const {
  std::vector<Operation> choices;
  for (int cpu = 0; cpu < allocator_->cpus(); ++cpu) {
    for (int order = 0; order <= allocator_->max_order().value(); ++order) {
      choices.push_back(Alloc{cpu, order});
    }
    for (size_t slot = 0; slot < live_.size(); ++slot) {
      choices.push_back(Free{cpu, slot});
    }
  }
  choices.push_back(Drain{});
  for (size_t nth = 0; nth < FreeBlocks().size(); ++nth) {
    choices.push_back(Isolate{nth});
  }
  for (size_t slot = 0; slot < isolated_.size(); ++slot) {
    choices.push_back(Return{slot});
  }
  return choices;
}

std::string RunBuddyProgram(const BuddyWorld& world, const Program& program) {
  std::string wrong = RunOnce(world, program);
  if (wrong.empty()) return "";
  // Leave out operations, one at a time, as long as it still fails.
  Program shortest = program;
  for (size_t i = shortest.size(); i-- > 0;) {
    Program shorter = shortest;
    shorter.erase(shorter.begin() + static_cast<ptrdiff_t>(i));
    std::string still_wrong = RunOnce(world, shorter);
    if (still_wrong.empty()) continue;
    shortest = std::move(shorter);
    wrong = std::move(still_wrong);
  }
  return absl::StrCat(wrong, "\n  EXPECT_EQ(RunBuddyProgram(", world.name, ", ",
                      ToCode(shortest), "), \"\");");
}

}  // namespace guestmm::buddy
