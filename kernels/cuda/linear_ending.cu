// The ending of a linear layer in the place of its products. See ../src/linear.rs.
//
// A thread takes 16 bytes where rows and addends allow it, one value otherwise.

#include "ending.cuh"

template <int N, typename T>
__device__ void linear_ending(T* y, const Ending<T>& ending, long long count, int width) {
  const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (start >= count) return;
  Pack<T, N>& values = *reinterpret_cast<Pack<T, N>*>(y + start);
  values = end(values, ending, start, start % width);
}

#define KERNEL(format, T)                                                                                            \
  extern "C" __global__ void linear_ending_##format(T* y, const T* bias, const T* first, const T* second,            \
                                                    long long count, int width, int relu) {                          \
    linear_ending<1>(y, {bias, first, second, relu}, count, width);                                                  \
  }                                                                                                                  \
  extern "C" __global__ void linear_ending_packed_##format(T* y, const T* bias, const T* first, const T* second,     \
                                                           long long count, int width, int relu) {                   \
    linear_ending<16 / sizeof(T)>(y, {bias, first, second, relu}, count, width);                                     \
  }
FOR_EVERY_FORMAT(KERNEL)
