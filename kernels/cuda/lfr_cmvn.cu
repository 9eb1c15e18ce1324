// Rows of stacked frames, normalised: see ../src/lfr_cmvn.rs.
//
// A block writes one row. In f32, whatever the network computes in: what is left of the energies are small differences.

extern "C" __global__ void lfr_cmvn_f32(const float* x, const float* cmvn, const unsigned* lengths, float* y, int time, int width,
                                        int stack, int stride, int first) {
  const int item = blockIdx.y;
  const int start = (first + static_cast<int>(blockIdx.x)) * stride;
  const int last = static_cast<int>(lengths[item]) - 1;
  x += static_cast<long long>(item) * time * width;
  y += (static_cast<long long>(item) * gridDim.x + blockIdx.x) * stack * width;
  for (int i = threadIdx.x; i < stack * width; i += blockDim.x) {
    const int frame = min(start + i / width, last);
    const float value = last < 0 ? 0.0f : x[static_cast<long long>(frame) * width + i % width];
    y[i] = (value + cmvn[i]) * cmvn[stack * width + i];
  }
}
