// The best of each row, and the probability of the first: see ../src/best.rs.
//
// A block goes through a row once. A thread carries the largest value so far, its place, and the sum of exponentials relative to
// it; in the end what the threads carry is joined pair by pair. For each further place it goes through the row again, which by
// then lies in a cache, and looks at what comes after the one before.

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

// What the threads of a block carry, in all of them.
__device__ inline Carried join_block(Carried own, Carried nothing) {
  __shared__ Carried all[WARPS], joined;
  own = join_warp(own);
  if (threadIdx.x % WARP == 0) all[threadIdx.x / WARP] = own;
  __syncthreads();
  if (threadIdx.x < WARP) {
    own = join_warp(threadIdx.x < WARPS ? all[threadIdx.x] : nothing);
    if (threadIdx.x == 0) joined = own;
  }
  __syncthreads();
  return joined;
}

// The best of a row, with the sum.
template <typename T> __device__ Carried first(const T* x, int width) {
  Carried own = {-INFINITY, 0.0f, width};
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = widen(x[i]);
    // Adds nothing, and has no difference to itself.
    if (value == -INFINITY) continue;
    own = join(own, {value, isnan(value) ? value : 1.0f, i});
  }
  return join_block(own, {-INFINITY, 0.0f, width});
}

// The best of those after `last`, without a sum.
template <typename T> __device__ Carried next(const T* x, int width, Carried last) {
  Carried own = {-INFINITY, 0.0f, width};
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = widen(x[i]);
    const bool after = value < last.largest || (value == last.largest && i > last.place);
    // Places only grow: of equal values the first is there already.
    if (after && (value > own.largest || own.place == width)) own = {value, 0.0f, i};
  }
  return join_block(own, {-INFINITY, 0.0f, width});
}

template <typename T> __device__ void best(const T* x, float* y, int width, int count) {
  x += static_cast<long long>(blockIdx.x) * width;
  y += static_cast<long long>(blockIdx.x) * (2 * count + 1);
  Carried found = first(x, width);
  // An infinity is no score.
  if (threadIdx.x == 0) y[2 * count] = isinf(found.largest) ? NAN : -logf(found.sum);
  for (int rank = 0; rank < count; ++rank) {
    if (rank > 0) found = next(x, width, found);
    if (threadIdx.x > 0) continue;
    y[rank] = static_cast<float>(found.place);
    y[count + rank] = found.largest;
  }
}

#define KERNEL(format, T) \
  extern "C" __global__ void best_##format(const T* x, float* y, int width, int count) { best(x, y, width, count); }
FOR_EVERY_FORMAT(KERNEL)
