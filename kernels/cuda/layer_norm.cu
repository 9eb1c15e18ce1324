// Layer normalisation over rows: see ../src/layer_norm.rs.
//
// A warp takes a row and passes over it three times, the last two from its cache: mean, variance about the mean, result.

#include "common.cuh"

template <typename T>
__device__ void layer_norm(const T* x, const T* weight, const T* bias, T* y, int rows, int width, float eps) {
  const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  const int lane = threadIdx.x % WARP;
  if (row >= rows) return;
  x += static_cast<long long>(row) * width;
  y += static_cast<long long>(row) * width;

  float sum = 0.0f;
  for (int i = lane; i < width; i += WARP) sum += widen(x[i]);
  const float mean = warp_sum(sum) / width;
  float squares = 0.0f;
  for (int i = lane; i < width; i += WARP) {
    const float centred = widen(x[i]) - mean;
    squares += centred * centred;
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
  for (int i = lane; i < width; i += WARP) {
    y[i] = narrow<T>((widen(x[i]) - mean) * scale * widen(weight[i]) + widen(bias[i]));
  }
}

#define KERNEL(format, T)                                                                                        \
  extern "C" __global__ void layer_norm_##format(const T* x, const T* weight, const T* bias, T* y, int rows, int width, \
                                                 float eps) {                                                    \
    layer_norm(x, weight, bias, y, rows, width, eps);                                                            \
  }
FOR_EVERY_FORMAT(KERNEL)
