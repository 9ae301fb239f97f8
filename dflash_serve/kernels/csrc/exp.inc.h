/* The library's one exponential, for a whole vector and for a masked tail alike, so that a number's
 * result does not depend on where it stands. Included once per instruction set, after v16.inc.h.
 *
 * With a fused multiply-add it has the bits of MLX's own: x / ln 2 = n + f, n the nearest whole
 * number; e^x = 2^n p(f), p of degree 6. Above 88 it is infinite, below -88 zero; NaN stays. */

typedef int vec_int __attribute__((vector_size(4 * LANES)));

#define EXP_MOST 88.0f

/* Lanes of `a` where `mask` is set, of `b` elsewhere. */
ISA_FN INLINE vec vec_select(vec_int mask, vec a, vec b) {
    return (vec)(((vec_int)a & mask) | ((vec_int)b & ~mask));
}

/* Of numbers from -88 on. */
ISA_FN INLINE vec vec_exp_above(vec in) {
    vec x = in * vec_set1(1.442695f);
    vec_int n = __builtin_convertvector(x, vec_int);
    n += (vec_int)(__builtin_convertvector(n, vec) > x); /* rounded down */
    n -= (vec_int)(x - __builtin_convertvector(n, vec) >= vec_set1(0.5f));
    vec f = x - __builtin_convertvector(n, vec);
    vec p = vec_fma(vec_set1(1.535336188319500e-4f), f, vec_set1(1.339887440266574e-3f));
    p = vec_fma(p, f, vec_set1(9.618437357674640e-3f));
    p = vec_fma(p, f, vec_set1(5.550332471162809e-2f));
    p = vec_fma(p, f, vec_set1(2.402264791363012e-1f));
    p = vec_fma(p, f, vec_set1(6.931472028550421e-1f));
    p = vec_fma(p, f, vec_set1(1.0f));
    vec result = (vec)((n + 127) << 23) * p; /* NaN came through f */
    return vec_select((vec_int)(in > vec_set1(EXP_MOST)), vec_set1(__builtin_inff()), result);
}

ISA_FN INLINE vec vec_exp(vec in) {
    return vec_select((vec_int)(in < vec_set1(-EXP_MOST)), vec_set1(0.0f), vec_exp_above(in));
}

ISA_FN INLINE v16 v_exp(v16 x) {
    EACH_PART(p) x.part[p] = vec_exp(x.part[p]);
    return x;
}

/* 1 / (1 + e^-x), as MLX computes it. */
ISA_FN INLINE vec vec_sigmoid(vec x) {
    vec one = vec_set1(1.0f);
    vec magnitude = (vec)((vec_int)x & 0x7fffffff);
    vec y = one / (one + vec_exp_above(magnitude));
    return vec_select((vec_int)(x < vec_set1(0.0f)), y, one - y);
}
