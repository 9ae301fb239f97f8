/* Rows of a quantised matrix as float32: number * scale + bias, the product and the sum each rounded
 * once. Included once per instruction set, after v16.inc.h. */

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint8_t bytes8 __attribute__((vector_size(8)));
typedef uint16_t shorts8 __attribute__((vector_size(16)));

/* Sixteen numbers, a byte each; of 4 bits the lower half of a byte comes first. */
ISA_FN INLINE bytes16 load_numbers(const uint8_t *from, int bits) {
    if (bits == 8) {
        bytes16 whole;
        memcpy(&whole, from, sizeof whole);
        return whole;
    }
    bytes8 pairs;
    memcpy(&pairs, from, sizeof pairs);
    shorts8 wide = __builtin_convertvector(pairs, shorts8);
    return (bytes16)((wide & 0x0F) | ((wide & 0xF0) << 4));
}

#ifndef VEC_FROM_BYTES
ISA_FN INLINE vec vec_from_bytes(bytes16 x, int part) {
    vec out = vec_set1(0.0f);
    UNROLL for (int l = 0; l < LANES; l++) out[l] = (float)x[LANES * part + l];
    return out;
}
#endif

ISA_FN INLINE void unpack_row(const dflash_quantised *w, ptrdiff_t row, int bits, float *out) {
    ptrdiff_t groups = w->K / w->group;
    const uint8_t *from = (const uint8_t *)w->words + row * (w->K / 8) * bits;
    for (ptrdiff_t g = 0; g < groups; g++) {
        vec scale = vec_set1(stored_number(w->scales, row * groups + g, w->type));
        vec bias = vec_set1(stored_number(w->biases, row * groups + g, w->type));
#ifdef VEC_FROM_NIBBLES
        if (bits == 4) {
            static const bytes16 counted = {0, 1, 2,  3,  4,  5,  6,  7,
                                            8, 9, 10, 11, 12, 13, 14, 15};
            vec values = vec_add(vec_mul(vec_from_bytes(counted, 0), scale), bias);
            for (int i = 0; i < w->group; i += 16, from += 8, out += 16)
                vec_store(out, vec_from_nibbles(from, values));
            continue;
        }
#endif
        for (int i = 0; i < w->group; i += 16, from += 2 * bits, out += 16) {
            bytes16 numbers = load_numbers(from, bits);
            EACH_PART(p) {
                vec product = vec_mul(vec_from_bytes(numbers, p), scale);
                vec_store(out + LANES * p, vec_add(product, bias));
            }
        }
    }
}

ISA_FN static void unpack_rows(const dflash_quantised *w, ptrdiff_t row, int count, float *out,
                               ptrdiff_t ldo) {
    for (int i = 0; i < count; i++, out += ldo) {
        if (w->bits == 4) unpack_row(w, row + i, 4, out);
        else unpack_row(w, row + i, 8, out);
    }
}
