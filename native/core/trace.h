// NODE_INFINITY_TRACE=file: one Chrome trace event ("chrome://tracing", Perfetto) a command, written when the queue
// closes.
#pragma once
#include <chrono>
#include <string>
#include <vector>

namespace infinity {

class Trace {
 public:
  explicit Trace(std::string path) : path_(std::move(path)) {}
  ~Trace();
  bool enabled() const { return !path_.empty(); }

  using Clock = std::chrono::steady_clock;
  void add(std::string name, Clock::time_point begin, Clock::time_point end) {
    events_.push_back({std::move(name), begin, end});
  }

 private:
  struct Event {
    std::string name;
    Clock::time_point begin, end;
  };
  std::string path_;
  std::vector<Event> events_;
};

}  // namespace infinity
