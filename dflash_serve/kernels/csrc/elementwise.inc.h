/* Functions of single numbers over arrays. Included once per instruction set, after exp.inc.h. */

/* g / (1 + e^-g) * u */
ISA_FN INLINE v16 v_swiglu(v16 gate, v16 up) {
    v16 one = v_set1(1.0f), minus = v_set1(-1.0f);
    v16 below = v_add(one, v_exp(v_mul(gate, minus)));
    EACH_PART(p) gate.part[p] = gate.part[p] / below.part[p];
    return v_mul(gate, up);
}

ISA_FN static void swiglu(const float *gate, const float *up, float *out, ptrdiff_t count) {
    ptrdiff_t whole = count / 16 * 16;
    for (ptrdiff_t i = 0; i < whole; i += 16)
        v_store(out + i, v_swiglu(v_load(gate + i), v_load(up + i)));
    int rest = (int)(count - whole);
    if (rest)
        v_store_some(out + whole,
                     v_swiglu(v_load_some(gate + whole, rest), v_load_some(up + whole, rest)),
                     rest);
}
