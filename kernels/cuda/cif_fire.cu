// Alphas, and where tokens fire: see ../src/cif_fire.rs.
//
// A block does one item. Its threads compute the alphas; one of them adds them up, in the order and with the roundings of the host,
// so that each token fires at the same frame.

#include "track.cuh"

constexpr int CHUNK = 1024;

// What is carried from frame to frame.
struct Sum {
  double total = 0.0;
  // From the first frame on, or less 1 with each token.
  float before = 0.0f;
  int fired = 0;
};

__device__ inline void fire(Sum& sum, const Track<float>& track, int frame, float rest) {
  track.fires[sum.fired] = static_cast<float>(frame);
  track.rests[sum.fired] = rest;
  ++sum.fired;
}

__device__ inline void add_prefix(Sum& sum, const Track<float>& track, int frame, float alpha) {
  sum.total += static_cast<double>(alpha);
  const float prefix = static_cast<float>(sum.total);
  const float whole = floorf(prefix);
  const bool fired = whole > sum.before;
  const float peak = ((fired ? 1.0f : 0.0f) + prefix) - whole;
  if (fired) fire(sum, track, frame, peak - floorf(peak));
  track.peaks[frame] = peak;
  sum.before = whole;
}

__device__ inline void add_stepwise(Sum& sum, const Track<float>& track, int frame, float alpha) {
  const float missing = 1.0f - sum.before;
  sum.before += alpha;
  sum.total += static_cast<double>(alpha);
  track.peaks[frame] = sum.before;
  if (sum.before >= 1.0f) {
    fire(sum, track, frame, alpha - missing);
    sum.before -= 1.0f;
  }
}

// `tail` is below zero where there is none.
extern "C" __global__ void cif_fire_f32(const float* logits, const unsigned* lengths, float* y, int time, int columns, float smooth,
                                        float noise, float tail, int stepwise) {
  __shared__ float chunk[CHUNK];
  const int item = blockIdx.x;
  const int frames = lengths[item];
  const int known = frames + (tail < 0.0f ? 0 : 1);
  logits += static_cast<long long>(item) * time;
  const Track<float> track(y, item, columns);

  Sum sum;
  for (int start = 0; start < columns; start += CHUNK) {
    const int end = min(start + CHUNK, columns);
    for (int t = start + static_cast<int>(threadIdx.x); t < end; t += blockDim.x) {
      float alpha = 0.0f;
      if (t < frames) alpha = fmaxf(smooth / (1.0f + expf(-logits[t])) - noise, 0.0f);
      if (t >= frames && t < known) alpha = tail;
      chunk[t - start] = track.alphas[t] = alpha;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int t = start; t < min(end, known); ++t) {
        if (stepwise) add_stepwise(sum, track, t, chunk[t - start]);
        else add_prefix(sum, track, t, chunk[t - start]);
      }
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  const float total = static_cast<float>(sum.total);
  track.counts[0] = static_cast<float>(known);
  track.counts[1] = static_cast<float>(sum.fired);
  track.counts[2] = tail < 0.0f ? rintf(total) : floorf(total);
  track.counts[3] = static_cast<float>(frames);
}
