/* Gated units, number by number. Included once per instruction set, after exp.inc.h. */

/* x / (1 + e^-y) * up: silu's unit for y = x, that of gelu's tanh form for another y. */
ISA_FN INLINE vec vec_gate(vec x, vec y, vec up) {
    vec below = vec_set1(1.0f) + vec_exp(-y), endless = vec_set1(__builtin_inff());
    vec_int closed = (vec_int)(y < vec_set1(-EXP_MOST));
    below = (vec)(((vec_int)endless & closed) | ((vec_int)below & ~closed));
    return x / below * up;
}

ISA_FN INLINE vec vec_least(vec x, vec bound) { /* the smaller of both; NaN stays */
    vec_int above = (vec_int)(x > bound);
    return (vec)(((vec_int)bound & above) | ((vec_int)x & ~above));
}
ISA_FN INLINE vec vec_most(vec x, vec bound) { return -vec_least(-x, -bound); }

ISA_FN INLINE vec vec_swiglu(vec gate, vec up, const gated_job *job) {
    (void)job;
    return vec_gate(gate, gate, up);
}

/* (1 + tanh u) / 2 = 1 / (1 + e^-2u), with 2u = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
ISA_FN INLINE vec vec_geglu(vec gate, vec up, const gated_job *job) {
    (void)job;
    vec cubic = vec_fma(gate * gate, vec_set1(0.044715f), vec_set1(1.0f)) * gate;
    return vec_gate(gate, cubic * vec_set1(1.5957691216057308f), up);
}

ISA_FN INLINE vec vec_clipped_swiglu(vec gate, vec up, const gated_job *job) {
    vec limit = vec_set1(job->limit);
    gate = vec_least(gate, limit);
    up = vec_most(vec_least(up, limit), -limit);
    return vec_gate(gate, gate * vec_set1(job->alpha), up + vec_set1(1.0f));
}

#define GATED(unit)                                                                              \
    ISA_FN static void unit(const gated_job *job, ptrdiff_t from, ptrdiff_t to) {                \
        ptrdiff_t i = from;                                                                      \
        for (; i + LANES <= to; i += LANES)                                                      \
            vec_store(job->out + i,                                                              \
                      vec_##unit(vec_load(job->gate + i), vec_load(job->up + i), job));          \
        if (i < to) {                                                                            \
            int rest = (int)(to - i);                                                            \
            vec gate = vec_load_some(job->gate + i, rest), up = vec_load_some(job->up + i, rest); \
            vec_store_some(job->out + i, vec_##unit(gate, up, job), rest);                       \
        }                                                                                        \
    }

GATED(swiglu)
GATED(geglu)
GATED(clipped_swiglu)

ISA_FN static void gated(const gated_job *job, ptrdiff_t from, ptrdiff_t to) {
    if (job->unit == SWIGLU) swiglu(job, from, to);
    if (job->unit == GEGLU) geglu(job, from, to);
    if (job->unit == CLIPPED_SWIGLU) clipped_swiglu(job, from, to);
}
