#pragma once

// The wheels of nvcc and NCCL have no cuBLAS header; c10d's NCCL header reaches ATen's CUDA context, which names its types
// in declarations that we never call. Holds for LibTorch 2.11: look again at each upgrade.
typedef struct cublasContext* cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
