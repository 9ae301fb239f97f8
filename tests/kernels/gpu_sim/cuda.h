// The part of CUDA that this project's kernels use, on fibers.
#pragma once

#include "fibers.h"

using uint = unsigned;

#define __device__
#define __forceinline__ inline
#define __shared__ static
#define threadIdx (::gpu_sim::self().position)
#define blockIdx (::gpu_sim::self().group)
#define blockDim (::gpu_sim::self().group_extent)
#define gridDim (::gpu_sim::self().groups_extent)

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
inline int __float_as_int(float a) {
  int bits;
  memcpy(&bits, &a, 4);
  return bits;
}
inline float __int_as_float(int a) {
  float value;
  memcpy(&value, &a, 4);
  return value;
}
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
inline int __popc(unsigned a) { return __builtin_popcount(a); }

inline void __syncthreads(int line = __builtin_LINE()) {
  gpu_sim::meet_group("__syncthreads", line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  gpu_sim::meet("__syncwarp", line, mask, 0);
}

inline unsigned __ballot_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  const auto met = gpu_sim::meet("__ballot_sync", line, mask, vote);
  unsigned votes = 0;
  for (int lane = 0; lane < gpu_sim::kSimdWidth; ++lane) {
    if (met.has(lane) && gpu_sim::value_of<int>(met, lane)) votes |= 1u << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  return __ballot_sync(mask, vote, line) != 0;
}
inline int __all_sync(unsigned mask, int vote, int line = __builtin_LINE()) {
  return __ballot_sync(mask, vote, line) == mask;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int line = __builtin_LINE()) {
  const auto met = gpu_sim::meet("__shfl_sync", line, mask, value);
  return gpu_sim::value_of<T>(met, lane % gpu_sim::kSimdWidth);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, int line = __builtin_LINE()) {
  const auto met = gpu_sim::meet("__shfl_xor_sync", line, mask, value);
  return gpu_sim::value_of<T>(met, int(gpu_sim::self().lane()) ^ other);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int line = __builtin_LINE()) {
  const auto met = gpu_sim::meet("__shfl_down_sync", line, mask, value);
  const int from = int(gpu_sim::self().lane() + delta);
  return from < gpu_sim::kSimdWidth ? gpu_sim::value_of<T>(met, from) : value;
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int line = __builtin_LINE()) {
  const auto met = gpu_sim::meet("__shfl_up_sync", line, mask, value);
  const int from = int(gpu_sim::self().lane()) - int(delta);
  return from >= 0 ? gpu_sim::value_of<T>(met, from) : value;
}
