/* NEON on 64-bit Arm: 32 registers of 4 lanes. */
#include "blas.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <string.h>

#define ISA_FN
#define LANES 4
#define DOT_MR 6
#define SEQ_MR 6
#define SEQ_NV(mr) ((mr) == 1 ? 4 : (mr) <= 3 ? 2 : 1)
#define TALL_MR 6
#define TALL_NV 4

typedef float32x4_t vec;

ISA_FN INLINE vec vec_set1(float x) { return vdupq_n_f32(x); }
ISA_FN INLINE vec vec_load(const float *p) { return vld1q_f32(p); }
ISA_FN INLINE void vec_store(float *p, vec x) { vst1q_f32(p, x); }
ISA_FN INLINE vec vec_load_some(const float *p, int n) {
    float lanes[LANES] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(float));
    return vec_load(lanes);
}
ISA_FN INLINE void vec_store_some(float *p, vec x, int n) {
    float lanes[LANES];
    vec_store(lanes, x);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}
ISA_FN INLINE vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
ISA_FN INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
ISA_FN INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
ISA_FN INLINE vec vec_sqrt(vec x) { return vsqrtq_f32(x); }

#include "v16.inc.h"

ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    UNROLL for (int s = 0; s < count; s++) {
        vec low = vec_add(x[s].part[0], x[s].part[2]), high = vec_add(x[s].part[1], x[s].part[3]);
        vec pairs = vpaddq_f32(low, high), fours = vpaddq_f32(pairs, pairs);
        out[s] = vgetq_lane_f32(fours, 0) + vgetq_lane_f32(fours, 1);
    }
}

/* Row i of the 4 x 4 block becomes column i. */
ISA_FN INLINE void vec_transpose(vec *x) {
    float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

#define VEC_FROM_BYTES
ISA_FN INLINE vec vec_from_bytes(uint8_t __attribute__((vector_size(16))) x, int part) {
    uint8x8_t half = part < 2 ? vget_low_u8((uint8x16_t)x) : vget_high_u8((uint8x16_t)x);
    uint16x8_t wide = vmovl_u8(half);
    return vcvtq_f32_u32(vmovl_u16(part % 2 ? vget_high_u16(wide) : vget_low_u16(wide)));
}

#include "functions.inc.h"

static int runs_here(void) { return 1; }

const blas_isa isa_neon = {.name = "neon", .runs_here = runs_here, ISA_FUNCTIONS};
#endif
