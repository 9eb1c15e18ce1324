// FSMN memory: see ../src/fsmn_memory.rs.
//
// A thread computes ROWS output frames of one channel: neighbouring threads read neighbouring channels, and a tap stays in its
// register while it meets all frames of the thread. Output begins with frame `begin`. An addend that is not there is null.

#include "common.cuh"

constexpr int ROWS = 8;

template <typename T>
__device__ void fsmn_memory(const T* x, const T* taps, const T* one, const T* two, const unsigned* lengths, T* y,
                            long long item_stride, long long row_stride, int time, int begin, int width, int kernel,
                            int offset, int dilation, int skip) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  const int first = begin + blockIdx.y * ROWS;
  const int item = blockIdx.z;
  if (channel >= width) return;
  const int length = lengths[item];
  x += item * item_stride + channel;
  const long long place = (static_cast<long long>(item) * (time - begin) + first - begin) * width + channel;

  float sums[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int t = first + r;
    sums[r] = skip && t < length ? widen(x[t * row_stride]) : 0.0f;
  }
  for (int k = 0; k < kernel; ++k) {
    const float tap = widen(taps[k * width + channel]);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const int source = first + r + offset + k * dilation;
      if (source >= 0 && source < length) sums[r] += tap * widen(x[source * row_stride]);
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int t = first + r;
    if (t < time) {
      const long long at = place + static_cast<long long>(r) * width;
      const float added = (one ? widen(one[at]) : 0.0f) + (two ? widen(two[at]) : 0.0f);
      y[at] = narrow<T>((t < length ? sums[r] : 0.0f) + added);
    }
  }
}

#define KERNEL(format, T)                                                                                                   \
  extern "C" __global__ void fsmn_memory_##format(                                                                          \
      const T* x, const T* taps, const T* one, const T* two, const unsigned* lengths, T* y, long long item_stride,           \
      long long row_stride, int time, int begin, int width, int kernel, int offset, int dilation, int skip) {                \
    fsmn_memory(x, taps, one, two, lengths, y, item_stride, row_stride, time, begin, width, kernel, offset, dilation, skip); \
  }
FOR_EVERY_FORMAT(KERNEL)
