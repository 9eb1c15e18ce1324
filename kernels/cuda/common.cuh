// What the kernels share: number formats and reductions.
//
// Values are read as f32, computed with as f32 and rounded once, when they are written.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr int WARP = 32;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ T narrow(float x);
template <> __device__ inline float narrow(float x) { return x; }
template <> __device__ inline f16 narrow(float x) { return __float2half_rn(x); }
template <> __device__ inline bf16 narrow(float x) { return __float2bfloat16_rn(x); }

// The sum over a warp, in all of its lanes.
__device__ inline float warp_sum(float x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// The largest value of a warp, in all of its lanes.
__device__ inline float warp_max(float x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// Values that are read and written at once.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// Instantiates KERNEL(name of the format, type) for every number format.
#define FOR_EVERY_FORMAT(KERNEL) KERNEL(f32, float) KERNEL(f16, f16) KERNEL(bf16, bf16)
