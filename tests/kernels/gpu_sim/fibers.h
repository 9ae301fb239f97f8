// GPU threads on a CPU: what a kernel body sees. See fibers.cpp for how the threads take turns.
// Few standard headers, and no inline scheduler: each kernel of a test is compiled against this.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace gpu_sim {

constexpr int kSimdWidth = 32;
constexpr uint32_t kUnfinishedLanes = 0;  // a mask that stands for whoever has not returned yet

// Ends the launch with this reason.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

struct Extent {
  unsigned x, y, z;
  unsigned count() const { return x * y * z; }
  Extent operator+(Extent o) const { return {x + o.x, y + o.y, z + o.z}; }
  Extent at(unsigned index) const { return {index % x, index / x % y, index / (x * y)}; }
};

// Where a thread is, in Metal's words for it.
struct Place {
  unsigned index;  // in the threadgroup
  Extent position, group, group_extent, grid_extent, groups_extent, origin;
  unsigned lane() const { return index % kSimdWidth; }
};
const Place& self();

// What the lanes of a simdgroup brought to one operation; each lane gets its own copy, since the
// others may be at their next operation before it reads.
struct Exchange {
  uint64_t bits[kSimdWidth] = {};
  uint32_t present = 0;
  bool has(int lane) const { return lane >= 0 && lane < kSimdWidth && (present >> lane & 1); }
};

// Buffers of a call: address and element count of each, and the inputs' shapes padded to 8.
struct Arguments {
  void** data;
  const size_t* sizes;
  const int (*shapes)[8];
};
using Body = void (*)(const Arguments&);


// Runs body once per thread of the grid; a null result is success, else the reason of the failure.
const char* launch(const unsigned* grid_size, const unsigned* group_size, bool whole_groups,
                   unsigned seed, Body body, const Arguments& arguments);

void meet_group(const char* operation, int line);
Exchange meet_simd(const char* operation, int line, uint32_t mask, uint64_t bits);

template <typename T>
Exchange meet(const char* operation, int line, uint32_t mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return meet_simd(operation, line, mask, bits);
}

template <typename T>
T value_of(const Exchange& met, int lane) {
  if (!met.has(lane)) fail("the value of inactive lane %d is used", lane);
  T value;
  memcpy(&value, &met.bits[lane], sizeof(T));
  return value;
}

// Folds the present lanes as a butterfly does; neither Metal nor CUDA promises the order of floats.
template <typename T, typename Op>
T fold(const Exchange& met, Op op) {
  T values[kSimdWidth] = {};
  uint32_t present = met.present;
  for (int lane = 0; lane < kSimdWidth; ++lane) {
    if (met.has(lane)) values[lane] = value_of<T>(met, lane);
  }
  for (int step = kSimdWidth / 2; step > 0; step /= 2) {
    for (int lane = 0; lane < step; ++lane) {
      const bool left = present >> lane & 1, right = present >> (lane + step) & 1;
      if (right) values[lane] = left ? T(op(values[lane], values[lane + step])) : values[lane + step];
      if (right) present |= 1u << lane;
    }
  }
  return values[0];
}

// A kernel argument in GPU memory: a pointer that checks its range. Device memory also decays to a
// plain pointer, which does not; constant memory has none, as Metal keeps the address spaces apart.
template <typename T, bool kIsDevice>
struct View {
  T* start;
  long size;
  long at = 0;

  template <typename Index>
  T& operator[](Index offset) const {
    const long index = at + long(offset);
    if (index < 0 || index >= size) fail("index %ld of %ld", index, size);
    return start[index];
  }
  T& operator*() const { return (*this)[0]; }
  template <typename Index>
  View& operator+=(Index offset) {
    at += long(offset);
    return *this;
  }
  template <typename Index>
  View operator+(Index offset) const {
    return View{start, size, at + long(offset)};
  }
  operator T*() const
    requires kIsDevice
  {
    return start + at;
  }
};

}  // namespace gpu_sim
