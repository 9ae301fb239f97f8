/* AVX2 + FMA: 16 registers of 8 lanes. */
#include "blas.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA_FN __attribute__((target("avx2,fma")))
#define LANES 8
#define DOT_MR 3
#define SEQ_MR 6
#define SEQ_NV(mr) ((mr) == 1 ? 4 : (mr) <= 3 ? 2 : 1)
#define TALL_MR 6
#define TALL_NV 2

typedef __m256 vec;

/* The window that starts at 8 - n has its first n lanes set. */
static const int window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

ISA_FN INLINE __m256i first_lanes(int count) {
    return _mm256_loadu_si256((const __m256i *)(window + 8 - count));
}
ISA_FN INLINE vec vec_set1(float x) { return _mm256_set1_ps(x); }
ISA_FN INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
ISA_FN INLINE vec vec_load_some(const float *p, int n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}
ISA_FN INLINE void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
ISA_FN INLINE void vec_store_some(float *p, vec x, int n) {
    _mm256_maskstore_ps(p, first_lanes(n), x);
}
ISA_FN INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
ISA_FN INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
ISA_FN INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
ISA_FN INLINE vec vec_sqrt(vec x) { return _mm256_sqrt_ps(x); }

#include "v16.inc.h"

ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    vec s[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const v16 *from = x + (i < count ? i : 0);
        s[i] = vec_add(from->part[0], from->part[1]);
    }
    vec fours = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
    float sums[4];
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
    UNROLL for (int i = 0; i < count; i++) out[i] = sums[i];
}

/* Row i of the 8 x 8 block becomes column i. */
ISA_FN INLINE void vec_transpose(vec *x) {
    vec y[8];
    UNROLL for (int i = 0; i < 8; i += 4) {
        vec a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
        vec c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
        y[i] = _mm256_shuffle_ps(a, c, 0x44);
        y[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
        y[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        y[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        x[i] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x31);
    }
}

#define VEC_FROM_BYTES
ISA_FN INLINE vec vec_from_bytes(uint8_t __attribute__((vector_size(16))) x, int part) {
    __m128i half = part ? _mm_unpackhi_epi64((__m128i)x, (__m128i)x) : (__m128i)x;
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(half));
}

#include "functions.inc.h"

static int runs_here(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const blas_isa isa_avx2 = {.name = "avx2", .runs_here = runs_here, ISA_FUNCTIONS};
#endif
