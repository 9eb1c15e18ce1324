// The best of each row, and its probability: see ../src/best.rs.
//
// A block goes through a row once. A thread carries the largest value so far, its place, and the sum of exponentials relative to
// it; in the end what the threads carry is joined pair by pair.

#include "common.cuh"

constexpr int WARPS = 8;

struct Carried {
  float largest;
  float sum;
  int place;
};

// Of equal values the first is the best, and NaN ends up in the sum.
__device__ inline Carried join(Carried a, Carried b) {
  const bool second = b.largest > a.largest || (b.largest == a.largest && b.place < a.place);
  const float largest = second ? b.largest : a.largest;
  // Where nothing but minus infinity has been seen, there is nothing to scale.
  const auto scaled = [&](const Carried& x) { return x.largest == -INFINITY ? x.sum : x.sum * expf(x.largest - largest); };
  return {largest, scaled(a) + scaled(b), second ? b.place : a.place};
}

__device__ inline Carried join_warp(Carried x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    x = join(x, {__shfl_xor_sync(0xffffffffu, x.largest, offset), __shfl_xor_sync(0xffffffffu, x.sum, offset),
                 __shfl_xor_sync(0xffffffffu, x.place, offset)});
  }
  return x;
}

template <typename T> __device__ void best(const T* x, float* y, int width) {
  __shared__ Carried all[WARPS];
  x += static_cast<long long>(blockIdx.x) * width;
  Carried own = {-INFINITY, 0.0f, width};
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = widen(x[i]);
    // Adds nothing, and has no difference to itself.
    if (value == -INFINITY) continue;
    own = join(own, {value, isnan(value) ? value : 1.0f, i});
  }
  own = join_warp(own);
  if (threadIdx.x % WARP == 0) all[threadIdx.x / WARP] = own;
  __syncthreads();
  if (threadIdx.x >= WARP) return;
  own = threadIdx.x < WARPS ? all[threadIdx.x] : Carried{-INFINITY, 0.0f, width};
  own = join_warp(own);
  if (threadIdx.x > 0) return;
  y += static_cast<long long>(blockIdx.x) * 3;
  y[0] = static_cast<float>(own.place);
  y[1] = own.largest;
  // An infinity is no score.
  y[2] = isinf(own.largest) ? NAN : -logf(own.sum);
}

#define KERNEL(format, T) \
  extern "C" __global__ void best_##format(const T* x, float* y, int width) { best(x, y, width); }
FOR_EVERY_FORMAT(KERNEL)
