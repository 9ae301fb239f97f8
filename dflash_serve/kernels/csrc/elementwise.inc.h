/* Gated units, number by number. Included once per instruction set, after exp.inc.h. */

ISA_FN INLINE vec vec_swiglu(vec gate, vec up, const gated_job *job) {
    (void)job;
    return gate * vec_sigmoid(gate) * up;
}

/* gelu's (1 + tanh u) / 2 = 1 / (1 + e^-2u), with 2u = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
ISA_FN INLINE vec vec_geglu(vec gate, vec up, const gated_job *job) {
    (void)job;
    vec cubic = vec_fma(gate * gate, vec_set1(0.044715f), vec_set1(1.0f)) * gate;
    return gate * vec_sigmoid(cubic * vec_set1(1.5957691216057308f)) * up;
}

/* The smaller of both; NaN stays. */
ISA_FN INLINE vec vec_least(vec x, vec bound) { return vec_select((vec_int)(x > bound), bound, x); }
ISA_FN INLINE vec vec_most(vec x, vec bound) { return vec_select((vec_int)(x < bound), bound, x); }

ISA_FN INLINE vec vec_clipped_swiglu(vec gate, vec up, const gated_job *job) {
    vec limit = vec_set1(job->limit);
    gate = vec_least(gate, limit);
    up = vec_most(vec_least(up, limit), -limit);
    return (up + vec_set1(1.0f)) * (gate * vec_sigmoid(gate * vec_set1(job->alpha)));
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
