/* Plain C on the compiler's vectors. Products are rounded before the sum: without a fused
 * multiply-add in hardware the same bits as the other instruction sets would cost a libm call each. */
#include "blas.h"

#include <string.h>

#define ISA_FN
#define DOT_MR 2
#define DOT_NR 2
#define SEQ_MR 2
#define SEQ_NV(mr) 1

typedef float v16 __attribute__((vector_size(64)));

ISA_FN INLINE v16 v_zero(void) { return (v16){0}; }
ISA_FN INLINE v16 v_set1(float x) {
    return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}
ISA_FN INLINE v16 v_load_some(const float *p, int n) {
    v16 x = {0};
    memcpy(&x, p, (size_t)n * sizeof(float));
    return x;
}
ISA_FN INLINE v16 v_load(const float *p) { return v_load_some(p, 16); }
ISA_FN INLINE void v_store_some(float *p, v16 x, int n) { memcpy(p, &x, (size_t)n * sizeof(float)); }
ISA_FN INLINE void v_store(float *p, v16 x) { v_store_some(p, x, 16); }
ISA_FN INLINE v16 v_fma(v16 a, v16 b, v16 c) { return a * b + c; }
ISA_FN INLINE v16 v_mul(v16 a, v16 b) { return a * b; }
ISA_FN INLINE v16 v_add(v16 a, v16 b) { return a + b; }

/* s[l] = x[l] + x[l+8]; p[j] = s[2j] + s[2j+1]; (p[0] + p[1]) + (p[2] + p[3]) */
ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    UNROLL for (int c = 0; c < count; c++) {
        float s[8], p[4];
        for (int l = 0; l < 8; l++) s[l] = x[c][l] + x[c][l + 8];
        for (int j = 0; j < 4; j++) p[j] = s[2 * j] + s[2 * j + 1];
        out[c] = (p[0] + p[1]) + (p[2] + p[3]);
    }
}

#include "dot.inc.h"
#include "seq.inc.h"

static int runs_here(void) { return 1; }

const blas_isa isa_generic = {"generic", runs_here, dot_gemm, seq_gemm};
