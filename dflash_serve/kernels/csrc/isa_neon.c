/* NEON on 64-bit Arm: 16 lanes are four registers, so the bits are those of AVX-512. */
#include "blas.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#define ISA_FN
#define DOT_MR 3
#define DOT_NR 2
#define SEQ_MR 6
#define SEQ_NV(mr) ((mr) == 1 ? 4 : (mr) <= 3 ? 2 : 1)

typedef struct {
    float32x4_t q0, q1, q2, q3;
} v16;

ISA_FN INLINE v16 v_set1(float x) {
    float32x4_t q = vdupq_n_f32(x);
    return (v16){q, q, q, q};
}
ISA_FN INLINE v16 v_zero(void) { return v_set1(0.0f); }
ISA_FN INLINE v16 v_load(const float *p) {
    return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
ISA_FN INLINE void v_store(float *p, v16 x) {
    vst1q_f32(p, x.q0);
    vst1q_f32(p + 4, x.q1);
    vst1q_f32(p + 8, x.q2);
    vst1q_f32(p + 12, x.q3);
}
ISA_FN INLINE v16 v_load_some(const float *p, int n) {
    float lanes[16] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return v_load(lanes);
}
ISA_FN INLINE void v_store_some(float *p, v16 x, int n) {
    float lanes[16];
    v_store(lanes, x);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}
ISA_FN INLINE v16 v_fma(v16 a, v16 b, v16 c) {
    return (v16){vfmaq_f32(c.q0, a.q0, b.q0), vfmaq_f32(c.q1, a.q1, b.q1),
                 vfmaq_f32(c.q2, a.q2, b.q2), vfmaq_f32(c.q3, a.q3, b.q3)};
}
ISA_FN INLINE v16 v_mul(v16 a, v16 b) {
    return (v16){vmulq_f32(a.q0, b.q0), vmulq_f32(a.q1, b.q1), vmulq_f32(a.q2, b.q2),
                 vmulq_f32(a.q3, b.q3)};
}
ISA_FN INLINE v16 v_add(v16 a, v16 b) {
    return (v16){vaddq_f32(a.q0, b.q0), vaddq_f32(a.q1, b.q1), vaddq_f32(a.q2, b.q2),
                 vaddq_f32(a.q3, b.q3)};
}

/* s[l] = x[l] + x[l+8]; p[j] = s[2j] + s[2j+1]; (p[0] + p[1]) + (p[2] + p[3]) */
ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    UNROLL for (int s = 0; s < count; s++) {
        float32x4_t pairs = vpaddq_f32(vaddq_f32(x[s].q0, x[s].q2), vaddq_f32(x[s].q1, x[s].q3));
        float32x4_t fours = vpaddq_f32(pairs, pairs);
        out[s] = vgetq_lane_f32(fours, 0) + vgetq_lane_f32(fours, 1);
    }
}

#include "dot.inc.h"
#include "seq.inc.h"

static int runs_here(void) { return 1; }

const blas_isa isa_neon = {"neon", runs_here, dot_gemm, seq_gemm};
#endif
