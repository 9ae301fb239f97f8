/* What this library offers to the MLX extension: functions over float32 arrays, row-major, which
 * share the library's threads. No result depends on threads or on the place of a number. */
#ifndef DFLASH_CPU_H
#define DFLASH_CPU_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = silu(gate[i]) * up[i]; `out` may be `gate` or `up`. */
void dflash_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count);

#ifdef __cplusplus
}
#endif

#endif
