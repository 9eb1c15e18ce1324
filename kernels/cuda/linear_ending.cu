// What follows the product of a linear layer: y = activation(y + bias + addends), in place. See ../src/linear.rs.
//
// A thread takes 16 bytes where rows and addends allow it, one value otherwise. An addend that is not there is null.

#include "common.cuh"

template <int N, typename T>
__device__ void linear_ending(T* y, const T* bias, const T* first, const T* second, long long count, int width, int relu) {
  const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (start >= count) return;
  using P = Pack<T, N>;
  const auto read = [](const T* from) { return *reinterpret_cast<const P*>(from); };
  P sums = read(y + start);
  const P biases = read(bias + start % width);
  const P zero = {};
  const P firsts = first ? read(first + start) : zero;
  const P seconds = second ? read(second + start) : zero;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float sum = widen(sums.values[i]) + widen(biases.values[i]) + widen(firsts.values[i]) + widen(seconds.values[i]);
    // Written so that NaN stays.
    sums.values[i] = narrow<T>(relu && sum < 0.0f ? 0.0f : sum);
  }
  *reinterpret_cast<P*>(y + start) = sums;
}

#define KERNEL(format, T)                                                                                            \
  extern "C" __global__ void linear_ending_##format(T* y, const T* bias, const T* first, const T* second,            \
                                                    long long count, int width, int relu) {                          \
    linear_ending<1>(y, bias, first, second, count, width, relu);                                                    \
  }                                                                                                                  \
  extern "C" __global__ void linear_ending_packed_##format(T* y, const T* bias, const T* first, const T* second,     \
                                                           long long count, int width, int relu) {                   \
    linear_ending<16 / sizeof(T)>(y, bias, first, second, count, width, relu);                                       \
  }
FOR_EVERY_FORMAT(KERNEL)
