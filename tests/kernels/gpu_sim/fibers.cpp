// One GPU thread is one fiber; simdgroup operations and barriers are meeting points.
// Fibers of a threadgroup take turns in an order drawn anew from a seed at every turn, so that a
// result that leans on some order of the threads rarely survives a few seeds. Threadgroups run one
// after another, also in drawn order. Misuse throws Failure, which launch() hands to the caller.
#include "fibers.h"

#include <ucontext.h>

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gpu_sim {
namespace {

constexpr size_t kStackBytes = 128 * 1024;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Random {
  uint64_t state;
  explicit Random(unsigned seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
  unsigned below(unsigned bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return unsigned(state >> 32) % bound;
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (unsigned i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }
};

enum class State { kReady, kInSimd, kInGroup, kDone };

struct Thread {
  ucontext_t context;
  char* stack = new char[kStackBytes];
  State state = State::kReady;
  Place place;
  // The meeting point it waits at:
  const char* operation = "";
  int line = 0;
  uint32_t mask = 0;
  uint64_t bits = 0;
  Exchange met;

  Thread() = default;
  Thread(const Thread&) = delete;
  ~Thread() { delete[] stack; }
  bool waits_like(const Thread& o) const {
    return state == o.state && !strcmp(operation, o.operation) && line == o.line && mask == o.mask;
  }
};

struct Scheduler {
  ucontext_t home;
  std::vector<Thread> threads;
  Thread* running = nullptr;
  Body body;
  const Arguments& arguments;
  std::string failure;

  Scheduler(Body body, const Arguments& arguments, unsigned count)
      : threads(count), body(body), arguments(arguments) {}

  void run(Random& random);
  void resume(Thread& thread);
  bool release_simd(unsigned first);
  bool release_group();
  std::string stuck() const;
  unsigned count(State state) const {
    unsigned found = 0;
    for (const Thread& thread : threads) found += thread.state == state;
    return found;
  }
};

Scheduler* scheduler = nullptr;  // of the launch in progress

void fiber_entry() {
  try {
    scheduler->body(scheduler->arguments);
  } catch (const Failure& error) {
    scheduler->failure = error.what();
  }
  scheduler->running->state = State::kDone;
}

void Scheduler::resume(Thread& thread) {
  running = &thread;
  swapcontext(&home, &thread.context);
  if (!failure.empty()) throw Failure(failure);
}

void Scheduler::run(Random& random) {
  scheduler = this;
  std::vector<Thread*> order;
  for (auto& thread : threads) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = &home;
    makecontext(&thread.context, fiber_entry, 0);
    order.push_back(&thread);
  }
  while (count(State::kDone) < threads.size()) {
    random.shuffle(order);
    bool moved = false;
    for (Thread* thread : order) {
      if (thread->state != State::kReady) continue;
      resume(*thread);
      moved = true;
    }
    for (unsigned first = 0; first < threads.size(); first += kSimdWidth) {
      moved |= release_simd(first);
    }
    moved |= release_group();
    if (!moved) throw Failure(stuck());
  }
}

// Lets go every set of lanes of one simdgroup that has fully met at one operation.
bool Scheduler::release_simd(unsigned first) {
  const unsigned full = first + kSimdWidth, size = threads.size(), end = full < size ? full : size;
  bool released = false;
  for (unsigned i = first; i < end; ++i) {
    const Thread& waiting = threads[i];
    if (waiting.state != State::kInSimd) continue;
    Exchange met;
    bool complete = true;
    for (unsigned j = first; j < full; ++j) {
      const bool named = waiting.mask >> (j - first) & 1;
      const bool alive = j < end && threads[j].state != State::kDone;
      if (waiting.mask == kUnfinishedLanes ? !alive : !named) continue;
      complete = complete && alive && threads[j].waits_like(waiting);
      if (!complete) break;
      met.bits[j - first] = threads[j].bits;
      met.present |= 1u << (j - first);
    }
    if (!complete) continue;
    for (unsigned j = first; j < end; ++j) {
      if (!met.has(j - first)) continue;
      threads[j].state = State::kReady;
      threads[j].met = met;
    }
    released = true;
  }
  return released;
}

bool Scheduler::release_group() {
  for (const auto& thread : threads) {
    if (thread.state != State::kInGroup || !thread.waits_like(threads[0])) return false;
  }
  for (auto& thread : threads) thread.state = State::kReady;
  return true;
}

std::string Scheduler::stuck() const {
  const Thread* first = nullptr;
  unsigned same = 0;
  for (const Thread& thread : threads) {
    if (thread.state == State::kDone) continue;
    if (!first) first = &thread;
    same += thread.waits_like(*first);
  }
  return std::string(first->operation) + " at line " + std::to_string(first->line) +
         " reached by only " + std::to_string(same) + " of " + std::to_string(threads.size()) +
         " threads";
}

void wait(State state, const char* operation, int line, uint32_t mask) {
  Thread& thread = *scheduler->running;
  thread.state = state;
  thread.operation = operation;
  thread.line = line;
  thread.mask = mask;
  swapcontext(&thread.context, &scheduler->home);
}

// The part of a full threadgroup that lies inside the grid; Metal cuts the last one, CUDA does not.
unsigned inside(unsigned grid, unsigned group, unsigned full) {
  const unsigned left = grid - group * full;
  return left < full ? left : full;
}

}  // namespace

void fail(const char* format, ...) {
  char text[200];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  throw Failure(text);
}

const Place& self() { return scheduler->running->place; }

void meet_group(const char* operation, int line) { wait(State::kInGroup, operation, line, 0); }

Exchange meet_simd(const char* operation, int line, uint32_t mask, uint64_t bits) {
  if (mask != kUnfinishedLanes && !(mask >> self().lane() & 1)) {
    fail("%s at line %d called by a lane outside its mask", operation, line);
  }
  scheduler->running->bits = bits;
  wait(State::kInSimd, operation, line, mask);
  return scheduler->running->met;
}

const char* launch(const unsigned* grid_size, const unsigned* group_size, bool whole_groups,
                   unsigned seed, Body body, const Arguments& arguments) {
  static std::string message;
  const Extent grid{grid_size[0], grid_size[1], grid_size[2]};
  const Extent full{group_size[0], group_size[1], group_size[2]};
  auto ceil_div = [](unsigned a, unsigned b) { return (a + b - 1) / b; };
  const Extent groups{ceil_div(grid.x, full.x), ceil_div(grid.y, full.y), ceil_div(grid.z, full.z)};
  std::vector<unsigned> order(groups.count());
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  Random random(seed);
  random.shuffle(order);
  try {
    for (unsigned i : order) {
      const Extent group = groups.at(i);
      const Extent cut{inside(grid.x, group.x, full.x), inside(grid.y, group.y, full.y),
                       inside(grid.z, group.z, full.z)};
      const Extent actual = whole_groups ? full : cut;
      Scheduler threadgroup(body, arguments, actual.count());
      for (unsigned j = 0; j < actual.count(); ++j) {
        const Extent origin{group.x * full.x, group.y * full.y, group.z * full.z};
        threadgroup.threads[j].place = {j, actual.at(j), group, actual, grid, groups, origin};
      }
      threadgroup.run(random);
    }
  } catch (const Failure& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}

}  // namespace gpu_sim
