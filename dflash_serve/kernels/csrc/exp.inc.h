/* The library's one exponential, for a whole vector and for a masked tail alike, so that a number's
 * result does not depend on where it stands. Included once per instruction set, after v16.inc.h.
 *
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^x = 2^n p(r), p the Taylor polynomial of degree 7: within
 * 1.5 units in the last place. Below -87.3 the result is 0, so -inf gives 0; above 88.3 that of
 * 88.3; NaN stays NaN. */

typedef int vec_int __attribute__((vector_size(4 * LANES)));

#define EXP_LEAST -87.3f
#define EXP_MOST 88.3f
#define EXP_SHIFT 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number in the low bits */

ISA_FN INLINE vec vec_exp(vec x) {
    vec_int tiny = (vec_int)(x < vec_set1(EXP_LEAST)), large = (vec_int)(x > vec_set1(EXP_MOST));
    vec_int bits = (vec_int)x & ~large;
    x = (vec)(bits | ((vec_int)vec_set1(EXP_MOST) & large));
    vec shifted = vec_fma(x, vec_set1(1.44269504088896341f), vec_set1(EXP_SHIFT));
    vec n = shifted - vec_set1(EXP_SHIFT);
    vec r = vec_fma(n, vec_set1(-0.693359375f), x);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    vec p = vec_set1(1.0f / 5040);
    p = vec_fma(p, r, vec_set1(1.0f / 720));
    p = vec_fma(p, r, vec_set1(1.0f / 120));
    p = vec_fma(p, r, vec_set1(1.0f / 24));
    p = vec_fma(p, r, vec_set1(1.0f / 6));
    p = vec_fma(p, r, vec_set1(0.5f));
    p = vec_fma(p, r, vec_set1(1.0f));
    p = vec_fma(p, r, vec_set1(1.0f));
    vec_int power = ((vec_int)shifted - (vec_int)vec_set1(EXP_SHIFT)) << 23;
    return (vec)(((vec_int)p + power) & ~tiny);
}

ISA_FN INLINE v16 v_exp(v16 x) {
    EACH_PART(p) x.part[p] = vec_exp(x.part[p]);
    return x;
}
