/* Plain C on the compiler's vectors. Products are rounded before the sum: without a fused
 * multiply-add in hardware the bits of the other instruction sets would cost a libm call each. */
#include "blas.h"

#include <math.h>
#include <string.h>

#define ISA_FN
#define LANES 4
#define DOT_MR 3
#define SEQ_MR 2
#define SEQ_NV(mr) 1
#define TALL_MR 4
#define TALL_NV 2

typedef float vec __attribute__((vector_size(4 * LANES)));

ISA_FN INLINE vec vec_set1(float x) { return (vec){x, x, x, x}; }
ISA_FN INLINE vec vec_load_some(const float *p, int n) {
    vec x = {0};
    memcpy(&x, p, (size_t)n * sizeof(float));
    return x;
}
ISA_FN INLINE vec vec_load(const float *p) { return vec_load_some(p, LANES); }
ISA_FN INLINE void vec_store_some(float *p, vec x, int n) {
    memcpy(p, &x, (size_t)n * sizeof(float));
}
ISA_FN INLINE void vec_store(float *p, vec x) { vec_store_some(p, x, LANES); }
ISA_FN INLINE vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
ISA_FN INLINE vec vec_mul(vec a, vec b) { return a * b; }
ISA_FN INLINE vec vec_add(vec a, vec b) { return a + b; }
ISA_FN INLINE vec vec_sqrt(vec x) {
    UNROLL for (int l = 0; l < LANES; l++) x[l] = sqrtf(x[l]);
    return x;
}

#include "v16.inc.h"

ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    UNROLL for (int s = 0; s < count; s++) {
        vec low = vec_add(x[s].part[0], x[s].part[2]), high = vec_add(x[s].part[1], x[s].part[3]);
        float left = (low[0] + low[1]) + (low[2] + low[3]);
        out[s] = left + ((high[0] + high[1]) + (high[2] + high[3]));
    }
}

/* Row i of the 4 x 4 block becomes column i. */
ISA_FN INLINE void vec_transpose(vec *x) {
    UNROLL for (int i = 0; i < LANES; i++)
        UNROLL for (int j = 0; j < i; j++) {
            float kept = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = kept;
        }
}

#include "functions.inc.h"

static int runs_here(void) { return 1; }

const blas_isa isa_generic = {.name = "generic", .runs_here = runs_here, ISA_FUNCTIONS};
