#pragma once

#include "cusolver_common.h"

// See cublas_v2.h.
typedef struct cusolverDnContext* cusolverDnHandle_t;
