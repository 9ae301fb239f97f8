/* AVX2 + FMA: 16 lanes are a pair of registers, so the bits are those of AVX-512. */
#include "blas.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA_FN __attribute__((target("avx2,fma")))
#define DOT_MR 3
#define DOT_NR 2
#define SEQ_MR 6
#define SEQ_NV(mr) ((mr) == 1 ? 4 : (mr) <= 3 ? 2 : 1)

typedef struct {
    __m256 lo, hi;
} v16;

/* Eight -1 then eight 0; the window that starts at 8 - n has its first n lanes set. */
static const int window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

ISA_FN INLINE __m256i first_lanes(int count) {
    int inside = count < 0 ? 0 : count > 8 ? 8 : count;
    return _mm256_loadu_si256((const __m256i *)(window + 8 - inside));
}
ISA_FN INLINE v16 v_zero(void) { return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
ISA_FN INLINE v16 v_set1(float x) { return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ISA_FN INLINE v16 v_load(const float *p) {
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
ISA_FN INLINE v16 v_load_some(const float *p, int n) {
    return (v16){_mm256_maskload_ps(p, first_lanes(n)),
                 _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
ISA_FN INLINE void v_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
}
ISA_FN INLINE void v_store_some(float *p, v16 x, int n) {
    _mm256_maskstore_ps(p, first_lanes(n), x.lo);
    _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.hi);
}
ISA_FN INLINE v16 v_fma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
ISA_FN INLINE v16 v_mul(v16 a, v16 b) {
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
ISA_FN INLINE v16 v_add(v16 a, v16 b) {
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

/* s[l] = x[l] + x[l+8]; p[j] = s[2j] + s[2j+1]; (p[0] + p[1]) + (p[2] + p[3]) */
ISA_FN INLINE void v_reduce(const v16 *x, float *out, int count) {
    __m256 first = _mm256_add_ps(x[0].lo, x[0].hi);
    __m256 second = count > 1 ? _mm256_add_ps(x[1].lo, x[1].hi) : first;
    __m256 pairs = _mm256_hadd_ps(first, second);
    __m256 fours = _mm256_hadd_ps(pairs, pairs);
    __m128 all = _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1));
    float sums[4];
    _mm_storeu_ps(sums, all);
    UNROLL for (int s = 0; s < count; s++) out[s] = sums[s];
}

#include "dot.inc.h"
#include "seq.inc.h"

static int runs_here(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const blas_isa isa_avx2 = {"avx2", runs_here, dot_gemm, seq_gemm};
#endif
