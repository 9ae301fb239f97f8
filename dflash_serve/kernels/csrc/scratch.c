/* One growing buffer per thread: a matmul allocates only when it is larger than all before it. */
#include "blas.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define SMALLEST (64 * 1024)

static __thread float *buffer;
static __thread size_t capacity;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_key(void) { pthread_key_create(&key, free); }

static void grow(size_t count) {
    pthread_once(&once, make_key);
    size_t bytes = (size_t)round_up((ptrdiff_t)((count < SMALLEST ? SMALLEST : count) * 4), 4096);
    free(buffer);
    buffer = aligned_alloc(4096, bytes);
    if (!buffer) {
        fprintf(stderr, "dflash_blas: no memory for a scratch buffer of %zu bytes\n", bytes);
        abort();
    }
    capacity = bytes / 4;
    pthread_setspecific(key, buffer);
}

float *scratch_floats(size_t count) {
    if (count > capacity) grow(count);
    return buffer;
}
