// The few calls of cuBLAS and cuRAND that candle makes, on the host.

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <curand.h>

#include <algorithm>
#include <vector>

#include "block.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
};

namespace {

float read(const void* from, cudaDataType type, long long i) {
  switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(from)[i];
    case CUDA_R_16F: return __half2float(static_cast<const __half*>(from)[i]);
    default: return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
  }
}

void write(void* to, cudaDataType type, long long i, float value) {
  switch (type) {
    case CUDA_R_32F: static_cast<float*>(to)[i] = value; break;
    case CUDA_R_16F: static_cast<__half*>(to)[i] = __float2half_rn(value); break;
    default: static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(value);
  }
}

bool known(cudaDataType type) { return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF; }

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) { return *handle = new cublasContext, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  return handle->stream = stream, CUBLAS_STATUS_SUCCESS;
}

// Matrices are column by column, as everywhere in cuBLAS; sums are f32.
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType type_a, int lda, long long step_a,
                                          const void* b, cudaDataType type_b, int ldb, long long step_b, const void* beta,
                                          void* c, cudaDataType type_c, int ldc, long long step_c, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
  const bool floats = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (!floats || !known(type_a) || !known(type_b) || !known(type_c)) return CUBLAS_STATUS_NOT_SUPPORTED;
  emulator::list("product %d x %d x %d, %d times\n", m, n, k, batch);
  emulator::finish(handle->stream);
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  std::vector<float> columns(static_cast<std::size_t>(m) * k), sums(m);
  for (int i = 0; i < batch; ++i) {
    for (int p = 0; p < k; ++p) {
      for (int r = 0; r < m; ++r) {
        const long long at = op_a == CUBLAS_OP_N ? r + static_cast<long long>(p) * lda : p + static_cast<long long>(r) * lda;
        columns[static_cast<std::size_t>(p) * m + r] = read(a, type_a, i * step_a + at);
      }
    }
    for (int column = 0; column < n; ++column) {
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (int p = 0; p < k; ++p) {
        const long long at =
            op_b == CUBLAS_OP_N ? p + static_cast<long long>(column) * ldb : column + static_cast<long long>(p) * ldb;
        const float factor = read(b, type_b, i * step_b + at);
        const float* from = &columns[static_cast<std::size_t>(p) * m];
        for (int r = 0; r < m; ++r) sums[r] += from[r] * factor;
      }
      for (int r = 0; r < m; ++r) {
        const long long at = i * step_c + r + static_cast<long long>(column) * ldc;
        write(c, type_c, at, scale * sums[r] + (keep != 0.0f ? keep * read(c, type_c, at) : 0.0f));
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
  return *generator = reinterpret_cast<curandGenerator_t>(1), CURAND_STATUS_SUCCESS;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long) { return CURAND_STATUS_SUCCESS; }

}  // extern "C"
