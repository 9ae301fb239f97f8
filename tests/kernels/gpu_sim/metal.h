// The part of the Metal Shading Language that this project's kernels use, on fibers.
// `threadgroup` works for variables declared in the kernel body, not for pointers whose initial
// value differs between threads: it becomes a C++ static, initialised once.
#pragma once

#include "fibers.h"

using uint = unsigned;
using ushort = unsigned short;
using uchar = unsigned char;
using ulong = uint64_t;
#if defined(__x86_64__) || __GNUC__ >= 13
using half = _Float16;
#else
using half = __fp16;
#endif
using float16_t = half;
using uint3 = gpu_sim::Extent;

// The upper half of a float32, rounded to nearest even.
struct bfloat16_t {
  uint16_t bits = 0;
  bfloat16_t() = default;
  bfloat16_t(float value) {
    uint32_t wide;
    memcpy(&wide, &value, 4);
    bits = value != value ? 0x7fc0 : uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
};
using bfloat = bfloat16_t;

#define device
#define constant
#define thread
#define threadgroup static

namespace metal {

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

inline void threadgroup_barrier(mem_flags, int line = __builtin_LINE()) {
  gpu_sim::meet_group("threadgroup_barrier", line);
}

// Metal takes the active lanes: those that have not returned. Lanes parted by a branch, which
// Metal allows here, are refused: where they meet again is the compiler's choice.
template <typename T>
auto meet(const char* operation, int line, T value) {
  return gpu_sim::meet(operation, line, gpu_sim::kUnfinishedLanes, value);
}

inline void simdgroup_barrier(mem_flags, int line = __builtin_LINE()) {
  meet("simdgroup_barrier", line, 0);
}

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
template <typename T> T abs(T a) { return a < T(0) ? T(-a) : a; }
template <typename T> T exp(T a) { return T(std::exp(float(a))); }
template <typename T> T log(T a) { return T(std::log(float(a))); }
template <typename T> T sqrt(T a) { return T(std::sqrt(float(a))); }
template <typename T> T rsqrt(T a) { return T(1.0f / std::sqrt(float(a))); }
template <typename T> T fma(T a, T b, T c) { return T(std::fma(float(a), float(b), float(c))); }
template <typename To, typename From> To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
inline uint ctz(uint a) { return a ? uint(__builtin_ctz(a)) : 32; }
inline uint clz(uint a) { return a ? uint(__builtin_clz(a)) : 32; }
inline uint popcount(uint a) { return uint(__builtin_popcount(a)); }

class simd_vote {
 public:
  using vote_t = uint64_t;
  explicit simd_vote(vote_t votes = 0, vote_t active = 0) : votes_(votes), active_(active) {}
  explicit operator vote_t() const { return votes_; }
  bool any() const { return votes_ != 0; }
  bool all() const { return votes_ == active_; }

 private:
  vote_t votes_, active_;
};

inline simd_vote simd_ballot(bool vote, int line = __builtin_LINE()) {
  const auto met = meet("simd_ballot", line, vote);
  uint64_t votes = 0;
  for (int lane = 0; lane < gpu_sim::kSimdWidth; ++lane) {
    if (met.has(lane) && gpu_sim::value_of<bool>(met, lane)) votes |= uint64_t(1) << lane;
  }
  return simd_vote(votes, met.present);
}
inline bool simd_any(bool vote, int line = __builtin_LINE()) { return simd_ballot(vote, line).any(); }
inline bool simd_all(bool vote, int line = __builtin_LINE()) { return simd_ballot(vote, line).all(); }
inline bool simd_is_first(int line = __builtin_LINE()) {
  return uint(__builtin_ctz(meet("simd_is_first", line, 0).present)) == gpu_sim::self().lane();
}

#define GPU_SIM_FOLD(name, op)                          \
  template <typename T>                                 \
  T name(T value, int line = __builtin_LINE()) {        \
    auto combine = [](T a, T b) { return op; };         \
    return gpu_sim::fold<T>(meet(#name, line, value), combine); \
  }
GPU_SIM_FOLD(simd_sum, a + b)
GPU_SIM_FOLD(simd_product, a* b)
GPU_SIM_FOLD(simd_min, min(a, b))
GPU_SIM_FOLD(simd_max, max(a, b))
GPU_SIM_FOLD(simd_and, a& b)
GPU_SIM_FOLD(simd_or, a | b)
GPU_SIM_FOLD(simd_xor, a ^ b)
#undef GPU_SIM_FOLD

template <typename T>
T prefix_sum(const gpu_sim::Exchange& met, int end) {
  T sum = T(0);
  for (int lane = 0; lane < end; ++lane) {
    if (met.has(lane)) sum = T(sum + gpu_sim::value_of<T>(met, lane));
  }
  return sum;
}
template <typename T>
T simd_prefix_inclusive_sum(T value, int line = __builtin_LINE()) {
  return prefix_sum<T>(meet("simd_prefix_inclusive_sum", line, value), gpu_sim::self().lane() + 1);
}
template <typename T>
T simd_prefix_exclusive_sum(T value, int line = __builtin_LINE()) {
  return prefix_sum<T>(meet("simd_prefix_exclusive_sum", line, value), gpu_sim::self().lane());
}

template <typename T>
T simd_shuffle(T value, ushort lane, int line = __builtin_LINE()) {
  return gpu_sim::value_of<T>(meet("simd_shuffle", line, value), lane);
}
template <typename T>
T simd_broadcast(T value, ushort lane, int line = __builtin_LINE()) {
  return gpu_sim::value_of<T>(meet("simd_broadcast", line, value), lane);
}
template <typename T>
T simd_broadcast_first(T value, int line = __builtin_LINE()) {
  const auto met = meet("simd_broadcast_first", line, value);
  return gpu_sim::value_of<T>(met, __builtin_ctz(met.present));
}
template <typename T>
T simd_shuffle_xor(T value, ushort mask, int line = __builtin_LINE()) {
  const auto met = meet("simd_shuffle_xor", line, value);
  return gpu_sim::value_of<T>(met, gpu_sim::self().lane() ^ mask);
}
template <typename T>
T simd_shuffle_down(T value, ushort delta, int line = __builtin_LINE()) {
  const auto met = meet("simd_shuffle_down", line, value);
  const int from = int(gpu_sim::self().lane()) + delta;
  return from < gpu_sim::kSimdWidth ? gpu_sim::value_of<T>(met, from) : value;
}
template <typename T>
T simd_shuffle_up(T value, ushort delta, int line = __builtin_LINE()) {
  const auto met = meet("simd_shuffle_up", line, value);
  const int from = int(gpu_sim::self().lane()) - delta;
  return from >= 0 ? gpu_sim::value_of<T>(met, from) : value;
}

}  // namespace metal

using namespace metal;
