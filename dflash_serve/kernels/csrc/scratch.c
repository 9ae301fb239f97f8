/* Growing buffers per thread: a call allocates only when it is larger than all before it. */
#include "blas.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALLEST (64 * 1024)

typedef struct {
    float *floats;
    size_t capacity;
} buffer;

static __thread buffer buffers[SCRATCH_USES];
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void free_all(void *of_thread) {
    for (int use = 0; use < SCRATCH_USES; use++) free(((buffer *)of_thread)[use].floats);
}

static void make_key(void) { pthread_key_create(&key, free_all); }

static void grow(buffer *from, size_t count) {
    pthread_once(&once, make_key);
    size_t bytes = (size_t)round_up((ptrdiff_t)((count < SMALLEST ? SMALLEST : count) * 4), 4096);
    free(from->floats);
    from->floats = aligned_alloc(4096, bytes);
    if (!from->floats) {
        fprintf(stderr, "dflash_blas: no memory for a scratch buffer of %zu bytes\n", bytes);
        abort();
    }
    from->capacity = bytes / 4;
    pthread_setspecific(key, buffers);
}

float *scratch_for(scratch_use use, size_t count) {
    if (count > buffers[use].capacity) grow(&buffers[use], count);
    return buffers[use].floats;
}

float *scratch_floats(size_t count) { return scratch_for(SCRATCH_MATMUL, count); }
