/* The choice of tokens for the extension: positions go to threads, and those that no round can use
 * any more are left out. */
#include "blas.h"

#include <stdlib.h>
#include <string.h>

static float median(float a, float b, float c) {
    if (a > b) return b > c ? b : a > c ? c : a;
    return a > c ? a : b > c ? c : b;
}

static void swap(float *x, ptrdiff_t i, ptrdiff_t j) {
    float kept = x[i];
    x[i] = x[j];
    x[j] = kept;
}

float least_kept(float *values, float *weights, ptrdiff_t count, double goal) {
    double above = 0; /* what has been left behind because it is greater */
    for (;;) {
        float pivot = median(values[0], values[count / 2], values[count - 1]);
        ptrdiff_t greater = 0, equal = 0, less = count; /* [greater, equal) equal the pivot */
        double weight = 0, same = 0;
        while (equal < less) {
            float x = values[equal];
            if (x > pivot) {
                weight += weights[equal];
                swap(values, greater, equal);
                swap(weights, greater++, equal++);
            } else if (x == pivot) {
                same += weights[equal++];
            } else {
                swap(values, --less, equal);
                swap(weights, less, equal);
            }
        }
        if (greater && above + weight >= goal) {
            count = greater;
            continue;
        }
        above += weight + same;
        if (less == count || above >= goal) return pivot;
        values += less;
        weights += less;
        count -= less;
    }
}

int drawn_from(const float *weights, int count, uint32_t word) {
    double total = 0, sum = 0;
    for (int i = 0; i < count; i++) total += weights[i];
    double target = (word >> 8) * 0x1p-24 * total; /* below the total */
    int i = 0;
    while ((sum += weights[i]) <= target) i++;
    return i;
}

double most_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return 0.6931471805599453 * (double)((int)(bits >> 52) - 1022);
}

#define LEAST_LOGITS (1 << 21) /* below which waking a thread costs more */

typedef struct {
    const dflash_choice *job;
    int *last; /* of each row: the last position that a round can use, as far as is known */
} shared;

static void lower_to(int *last, int position) {
    int seen = __atomic_load_n(last, __ATOMIC_RELAXED);
    while (position < seen && !__atomic_compare_exchange_n(last, &seen, position, 1,
                                                           __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}

/* First positions of all rows come first: most of the others may not be needed. */
static void choose_one(void *context, int index) {
    const shared *s = context;
    const dflash_choice *job = s->job;
    int row = index % job->rows, position = index / job->rows;
    if (position > __atomic_load_n(&s->last[row], __ATOMIC_RELAXED)) return;
    ptrdiff_t at = (ptrdiff_t)row * job->width + position;
    choice_job one = {.logits = job->logits + at * job->size, .size = job->size};
    if (job->settings) {
        const float *of = job->settings + 4 * (ptrdiff_t)row;
        one.temperature = of[0], one.top_p = of[1], one.top_k = of[2], one.min_p = of[3];
        one.key = job->keys + 2 * at;
    }
    int token = job->tokens[at] = isa_in_use()->choose(&one);
    if (job->drafts && position + 1 < job->width &&
        token != job->drafts[(ptrdiff_t)row * (job->width - 1) + position])
        lower_to(&s->last[row], position);
}

EXPORT void dflash_choose(const dflash_choice *job) {
    shared s = {job, malloc((size_t)job->rows * sizeof(int))};
    if (!s.last) abort();
    for (int row = 0; row < job->rows; row++)
        s.last[row] = (job->drafts ? job->lengths[row] : job->width) - 1;
    int parts = job->rows * job->width;
    int pays = (ptrdiff_t)parts * job->size >= LEAST_LOGITS && threads_in_use() > 1;
    if (pays) pool_run(parts, choose_one, &s);
    else
        for (int i = 0; i < parts; i++) choose_one(&s, i);
    for (int row = 0; row < job->rows; row++)
        for (int position = s.last[row] + 1; position < job->width; position++)
            job->tokens[(ptrdiff_t)row * job->width + position] = -1;
    free(s.last);
}
