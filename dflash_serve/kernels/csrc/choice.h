/* What the files of the choice of tokens share. */
#ifndef DFLASH_CHOICE_H
#define DFLASH_CHOICE_H

#include <stddef.h>
#include <stdint.h>

#define SPAN 256 /* tokens whose weights are summed first, in every back end */

/* Logits of one position, `size` of them. Temperature 0 chooses the greatest; top_k 0, top_p 1 and
 * min_p 0 filter nothing. `key`: two words, one for the span and one for the token in it. */
typedef struct {
    const float *logits;
    int size;
    float temperature, top_p, top_k, min_p;
    const uint32_t *key;
} choice_job;

/* The least of `count` values whose greater ones weigh less than `goal` altogether; the greatest
 * where even that is too much. Reorders both arrays. */
float least_kept(float *values, float *weights, ptrdiff_t count, double goal);

/* An index by its weight; of a sum that is not 0, and of a weight that is not 0. */
int drawn_from(const float *weights, int count, uint32_t word);

/* At least the natural logarithm of x >= 1, and at most 0.7 more. */
double most_log(double x);

#endif
