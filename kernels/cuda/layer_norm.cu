// Layer normalisation over rows, a warp each: see ../src/layer_norm.rs.
//
// A thread takes 16 bytes at a time where rows allow it, one value otherwise.

#include "norm.cuh"

template <int N, typename T>
__device__ void layer_norm(const T* x, const T* weight, const T* bias, T* y, int rows, int width, float eps) {
  const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= rows) return;
  const long long start = static_cast<long long>(row) * width;
  normalise<N>(x + start, weight, bias, y + start, width, eps);
}

#define KERNEL(format, T)                                                                                             \
  extern "C" __global__ void layer_norm_##format(const T* x, const T* weight, const T* bias, T* y, int rows,          \
                                                 int width, float eps) {                                              \
    layer_norm<1>(x, weight, bias, y, rows, width, eps);                                                              \
  }                                                                                                                   \
  extern "C" __global__ void layer_norm_packed_##format(const T* x, const T* weight, const T* bias, T* y, int rows,   \
                                                        int width, float eps) {                                       \
    layer_norm<16 / sizeof(T)>(x, weight, bias, y, rows, width, eps);                                                 \
  }
FOR_EVERY_FORMAT(KERNEL)
