/* What every instruction set needs to unpack quantised matrices. */
#ifndef DFLASH_QMM_H
#define DFLASH_QMM_H

#include <stdint.h>
#include <string.h>

#include "dflash_cpu.h"

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact for every finite number: a float16 is moved to the place of float32's exponent and mantissa,
 * and scaled by the difference of the exponents' offsets. */
static inline float stored_number(const void *from, ptrdiff_t index, int type) {
    if (type == DFLASH_FLOAT32) return ((const float *)from)[index];
    uint32_t bits = ((const uint16_t *)from)[index];
    if (type == DFLASH_BFLOAT16) return float_of_bits(bits << 16);
    return float_of_bits((bits & 0x8000u) << 16 | (bits & 0x7FFFu) << 13) * 0x1p112f;
}

#endif
