// Weighted sums of frames, one a token: see ../src/cif_sums.rs.
//
// A thread computes one channel of a token: from what the frame before has left, over the frames of the token's own, to its
// share of the frame in which it fires.

#include "common.cuh"

template <typename T>
__device__ void cif_sums(const T* x, const float* alphas, const unsigned* fires, const float* rests, const unsigned* counts, T* y,
                         int frames, int columns, int tokens, int width) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  const int token = blockIdx.y;
  const int item = blockIdx.z;
  if (channel >= width) return;
  x += static_cast<long long>(item) * frames * width + channel;
  alphas += static_cast<long long>(item) * columns;
  fires += static_cast<long long>(item) * tokens;
  rests += static_cast<long long>(item) * tokens;

  float sum = 0.0f;
  if (token < static_cast<int>(counts[item])) {
    int start = 0;
    // The tail, a frame behind the last one, is zero: it is not there.
    if (token > 0) {
      const int before = fires[token - 1];
      if (before < frames) sum = rests[token - 1] * widen(x[static_cast<long long>(before) * width]);
      start = min(before + 1, frames);
    }
    const int fire = fires[token];
    for (int t = start; t < min(fire, frames); ++t) sum += alphas[t] * widen(x[static_cast<long long>(t) * width]);
    if (fire < frames) sum += (alphas[fire] - rests[token]) * widen(x[static_cast<long long>(fire) * width]);
  }
  y[(static_cast<long long>(item) * tokens + token) * width + channel] = narrow<T>(sum);
}

#define KERNEL(format, T)                                                                                             \
  extern "C" __global__ void cif_sums_##format(const T* x, const float* alphas, const unsigned* fires,                \
                                               const float* rests, const unsigned* counts, T* y, int frames,          \
                                               int columns, int tokens, int width) {                                  \
    cif_sums(x, alphas, fires, rests, counts, y, frames, columns, tokens, width);                                     \
  }
FOR_EVERY_FORMAT(KERNEL)
