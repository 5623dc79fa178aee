#include "core/trace.h"

#include <cstdio>

namespace infinity {

Trace::~Trace() {
  if (!enabled() || events_.empty()) return;
  FILE* f = std::fopen(path_.c_str(), "w");
  if (!f) {
    std::fprintf(stderr, "node-infinity: cannot write the trace to %s (NODE_INFINITY_TRACE)\n", path_.c_str());
    return;
  }
  using Micros = std::chrono::duration<double, std::micro>;
  std::fputs("[", f);
  const char* separator = "\n";
  for (const Event& e : events_) {
    std::fprintf(f, "%s{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f}", separator,
                 e.name.c_str(), Micros(e.begin.time_since_epoch()).count(), Micros(e.end - e.begin).count());
    separator = ",\n";
  }
  std::fputs("\n]\n", f);
  std::fclose(f);
}

}  // namespace infinity
