/* A layer's product, by the matmul of the library. */
#include "blas.h"
#include "dflash_cpu.h"

#include <string.h>

#define ROW_MAJOR 101
#define PLAIN 111
#define TRANSPOSED 112

EXPORT void dflash_linear(const float *x, int rows, int inputs, const float *weight, int outputs,
                          const float *bias, float *out) {
    for (int row = 0; bias && row < rows; row++)
        memcpy(out + (ptrdiff_t)row * outputs, bias, (size_t)outputs * sizeof(float));
    cblas_sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, rows, outputs, inputs, 1.0f, x, inputs, weight, inputs,
                bias ? 1.0f : 0.0f, out, outputs);
}
