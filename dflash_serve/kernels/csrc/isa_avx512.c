/* AVX-512F: 32 registers of 16 lanes. */
#include "blas.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA_FN __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#define DOT_MR 6
#define SEQ_MR 6
#define SEQ_NV(mr) 4
#define TALL_MR 12
#define TALL_NV 2

typedef __m512 vec;

ISA_FN INLINE __mmask16 first_lanes(int count) { return (__mmask16)((1u << count) - 1u); }
ISA_FN INLINE vec vec_set1(float x) { return _mm512_set1_ps(x); }
ISA_FN INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
ISA_FN INLINE vec vec_load_some(const float *p, int n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
ISA_FN INLINE void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
ISA_FN INLINE void vec_store_some(float *p, vec x, int n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), x);
}
ISA_FN INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
ISA_FN INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
ISA_FN INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
ISA_FN INLINE vec vec_sqrt(vec x) { return _mm512_sqrt_ps(x); }

#include "v16.inc.h"

/* [a[l] + a[l+8] | b[l] + b[l+8]], l < 8 */
ISA_FN INLINE vec fold_two(v16 a, v16 b) {
    return vec_add(_mm512_shuffle_f32x4(a.part[0], b.part[0], 0x44),
                   _mm512_shuffle_f32x4(a.part[0], b.part[0], 0xEE));
}

ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    v16 zero = v_zero();
    vec ab = fold_two(x[0], count > 1 ? x[1] : zero);
    vec cd = count > 2 ? fold_two(x[2], count > 3 ? x[3] : zero) : zero.part[0];
    vec pairs = vec_add(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xDD));
    vec fours = vec_add(pairs, _mm512_permute_ps(pairs, 0xB1));
    vec all = vec_add(fours, _mm512_shuffle_f32x4(fours, fours, 0xB1));
    __m512i picks = _mm512_setr_epi32(0, 8, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    float sums[4];
    _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(picks, all)));
    UNROLL for (int s = 0; s < count; s++) out[s] = sums[s];
}

/* Row i of the 16 x 16 block becomes column i. */
ISA_FN INLINE void vec_transpose(vec *x) {
    vec y[16];
    UNROLL for (int i = 0; i < 16; i += 4) {
        vec a = _mm512_unpacklo_ps(x[i], x[i + 1]), b = _mm512_unpackhi_ps(x[i], x[i + 1]);
        vec c = _mm512_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm512_unpackhi_ps(x[i + 2], x[i + 3]);
        y[i] = _mm512_shuffle_ps(a, c, 0x44);
        y[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
        y[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        y[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        vec a = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x88);
        vec b = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xDD);
        vec c = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x88);
        vec d = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xDD);
        x[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        x[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        x[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
        x[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}

/* The part is the whole vector. */
#define VEC_FROM_BYTES
ISA_FN INLINE vec vec_from_bytes(uint8_t __attribute__((vector_size(16))) x, int part) {
    (void)part;
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)x));
}

/* A group of 4-bit numbers has sixteen values: they are computed once and looked up. */
#define VEC_FROM_NIBBLES
ISA_FN INLINE vec vec_from_nibbles(const uint8_t *from, vec values) {
    const __m512i words = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24,
                                             28);
    __m512i both = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)from));
    __m512i numbers = _mm512_srlv_epi32(_mm512_permutexvar_epi32(words, both), shifts);
    return _mm512_permutexvar_ps(numbers, values); /* reads the lowest four bits */
}

#include "functions.inc.h"

static int runs_here(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
}

const blas_isa isa_avx512 = {.name = "avx512", .runs_here = runs_here, ISA_FUNCTIONS};
#endif
