// Weighted sums of frames, one a token: see ../src/cif_sums.rs.
//
// A thread computes one channel of a token: from what the frame before has left, over the frames of the token's own, to its
// share of the frame in which it fires.

#include "common.cuh"
#include "track.cuh"

template <typename T>
__device__ void cif_sums(const T* x, const float* tracks, T* y, int time, int columns, int tokens, int width) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  const int token = blockIdx.y;
  const int item = blockIdx.z;
  if (channel >= width) return;
  x += static_cast<long long>(item) * time * width + channel;
  const Track<const float> track(tracks, item, columns);
  const int frames = static_cast<int>(track.counts[3]);

  float sum = 0.0f;
  if (token < static_cast<int>(fminf(track.counts[1], track.counts[2]))) {
    int start = 0;
    // The tail, a frame behind the last one, is zero: it is not there.
    if (token > 0) {
      const int before = static_cast<int>(track.fires[token - 1]);
      if (before < frames) sum = track.rests[token - 1] * widen(x[static_cast<long long>(before) * width]);
      start = min(before + 1, frames);
    }
    const int fire = static_cast<int>(track.fires[token]);
    for (int t = start; t < min(fire, frames); ++t) sum += track.alphas[t] * widen(x[static_cast<long long>(t) * width]);
    if (fire < frames) sum += (track.alphas[fire] - track.rests[token]) * widen(x[static_cast<long long>(fire) * width]);
  }
  y[(static_cast<long long>(item) * tokens + token) * width + channel] = narrow<T>(sum);
}

#define KERNEL(format, T)                                                                                                \
  extern "C" __global__ void cif_sums_##format(const T* x, const float* tracks, T* y, int time, int columns, int tokens, \
                                               int width) {                                                              \
    cif_sums(x, tracks, y, time, columns, tokens, width);                                                                \
  }
FOR_EVERY_FORMAT(KERNEL)
