// The ending of a linear layer and the layer norm of its result, a warp a row. See ../src/linear.rs.
//
// The norm reads what the warp has just written, from its cache.

#include "ending.cuh"
#include "norm.cuh"

template <int N, typename T>
__device__ void linear_norm(const T* products, const Ending<T>& ending, const T* weight, const T* bias, T* y, T* normed,
                            int rows, int width, float eps) {
  const int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= rows) return;
  const long long start = static_cast<long long>(row) * width;
  using P = Pack<T, N>;
  for (int i = threadIdx.x % WARP * N; i < width; i += WARP * N) {
    const P sums = *reinterpret_cast<const P*>(products + start + i);
    *reinterpret_cast<P*>(y + start + i) = end(sums, ending, start + i, i);
  }
  // A lane reads what it wrote itself, so nothing has to be waited for.
  normalise<N>(y + start, weight, bias, normed + start, width, eps);
}

#define KERNEL(variant, N, T)                                                                                       \
  extern "C" __global__ void linear_norm_##variant(const T* products, const T* layer_bias, const T* first,          \
                                                   const T* second, int relu, const T* weight, const T* bias, T* y, \
                                                   T* normed, int rows, int width, float eps) {                     \
    linear_norm<N>(products, {layer_bias, first, second, relu}, weight, bias, y, normed, rows, width, eps);         \
  }
#define KERNELS(format, T) KERNEL(format, 1, T) KERNEL(packed_##format, 16 / sizeof(T), T)
FOR_EVERY_FORMAT(KERNELS)
