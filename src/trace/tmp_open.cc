#include <cstdio>
#include <cstring>
#include <cstdlib>
#include "guestmm/trace/trace_reader.h"
namespace guestmm {
namespace {
class R final : public TraceReader {
 public:
  explicit R(FILE* f) : f_(f) {}
  ~R() override { pclose(f_); }
  absl::StatusOr<std::optional<TraceEvent>> Next() override {
    char line[1024];
    while (fgets(line, sizeof line, f_)) {
      char* a = strstr(line, ": mm_page_");
      if (!a) continue;
      TraceEvent e;
      char* b = strrchr(line, '[');
      for (char* p = strstr(line, "] "); p && p < a; p = strstr(p + 1, "] ")) { }
      b = a; while (b > line && *b != '[') --b;
      e.cpu = static_cast<uint16_t>(atoi(b + 1));
      char* t = a; while (t > line && t[-1] != ' ') --t;
      e.time = Nanoseconds(static_cast<int64_t>(strtod(t, nullptr) * 1e9 + 0.5));
      if (!strncmp(a + 10, "alloc:", 6)) e.kind = TraceEvent::Kind::kAlloc;
      else if (!strncmp(a + 10, "free:", 5)) e.kind = TraceEvent::Kind::kFree;
      else continue;
      char* p = strstr(a, "pfn="); if (!p) continue;
      e.pfn = Pfn(strtoull(p + 4, nullptr, 0));
      p = strstr(a, "order="); e.order = Order(atoi(p + 6));
      p = strstr(a, "migratetype="); e.migratetype = p ? static_cast<uint8_t>(atoi(p + 12)) : 0;
      ++c_.events;
      return std::optional<TraceEvent>(e);
    }
    return std::optional<TraceEvent>();
  }
  TraceReadCounters counters() const override { return c_; }
 private:
  FILE* f_;
  TraceReadCounters c_;
};
}
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const std::string& path, const TraceReadOptions&) {
  return std::unique_ptr<TraceReader>(new R(popen(("zstd -dc " + path).c_str(), "r")));
}
}
