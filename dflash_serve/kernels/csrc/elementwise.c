/* Elementwise functions for the extension: ranges of an array go to threads. */
#include "blas.h"
#include "dflash_cpu.h"

#define LEAST_PER_PART 8192 /* numbers below which waking a thread costs more */

typedef struct {
    const float *a, *b;
    float *out;
    ptrdiff_t count;
    int parts;
} pairs;

static int parts_of(ptrdiff_t count) {
    ptrdiff_t most = 4 * (ptrdiff_t)threads_in_use(), parts = count / LEAST_PER_PART;
    return (int)(most == 4 || parts < 1 ? 1 : parts < most ? parts : most);
}

static void swiglu_part(void *context, int index) {
    const pairs *p = context;
    ptrdiff_t from = p->count * index / p->parts, to = p->count * (index + 1) / p->parts;
    isa_in_use()->swiglu(p->a + from, p->b + from, p->out + from, to - from);
}

EXPORT void dflash_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count) {
    pairs p = {gate, up, out, count, parts_of(count)};
    if (p.parts == 1) swiglu_part(&p, 0);
    else pool_run(p.parts, swiglu_part, &p);
}
