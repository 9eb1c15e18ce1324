// Each frame beside its neighbours: see ../src/unfold.rs.
//
// A block writes one row of the result.

#include "common.cuh"

template <typename T>
__device__ void unfold(const T* x, long long item_stride, long long row_stride, const unsigned* lengths, T* y, int width, int taps,
                       int before) {
  const int t = blockIdx.x, item = blockIdx.y;
  const int length = lengths[item];
  y += (static_cast<long long>(item) * gridDim.x + t) * taps * width;
  for (int i = threadIdx.x; i < taps * width; i += blockDim.x) {
    const int from = t + i / width - before;
    const bool real = from >= 0 && from < length;
    y[i] = real ? x[item * item_stride + from * row_stride + i % width] : narrow<T>(0.0f);
  }
}

#define KERNEL(format, T)                                                                                              \
  extern "C" __global__ void unfold_##format(const T* x, long long item_stride, long long row_stride,                  \
                                             const unsigned* lengths, T* y, int width, int taps, int before) {         \
    unfold(x, item_stride, row_stride, lengths, y, width, taps, before);                                               \
  }
FOR_EVERY_FORMAT(KERNEL)
