/* The choice of one position's token. The greatest logit of each span of tokens is found first, so
 * that most spans need not be read again. Nothing is sorted: each filter keeps the tokens from some
 * logit on, so that only this one is looked for, among few candidates. Included once per
 * instruction set, after exp and attention. */

#define LOWEST (-__builtin_inff())
#define CUTS 8 /* values between which the lowest kept one is sought at once, */
#define MOST_CUTTINGS 6 /* times at most, */
#define FEW 64 /* or until this part of all weights lies between two of them */

/* Of one position: logits of candidates in the order of their ids, ids NULL where these are all
 * tokens, their weights e^((logit - greatest) / temperature), and scratch of that size. */
typedef struct {
    const float *logits;
    const int *ids;
    float *weights, *spare;
    ptrdiff_t count;
} candidates;

ISA_FN INLINE int vec_any(vec_int mask) {
    typedef long long halves __attribute__((vector_size(4 * LANES)));
    halves bits = (halves)mask;
    long long all = 0;
    UNROLL for (int i = 0; i < LANES / 2; i++) all |= bits[i];
    return all != 0;
}

ISA_FN INLINE v16 v_weight_of(v16 logits, float greatest, float per_degree) {
    return v_exp(v_mul(v_add(logits, v_set1(-greatest)), v_set1(per_degree)));
}

/* The first `count` of sixteen numbers; the others are LOWEST. */
ISA_FN INLINE v16 v_load_first(const float *from, ptrdiff_t count) {
    float all[16];
    if (count >= 16) return v_load(from);
    for (int l = 0; l < 16; l++) all[l] = l < count ? from[l] : LOWEST;
    return v_load(all);
}

ISA_FN INLINE float v_greatest(v16 x) {
    float lanes[16], most = LOWEST;
    v_store(lanes, x);
    for (int l = 0; l < 16; l++) most = lanes[l] > most ? lanes[l] : most;
    return most;
}

ISA_FN INLINE float v_total(v16 x) {
    float sum;
    v_reduce(&x, &sum, 1);
    return sum;
}

static inline ptrdiff_t span_end(ptrdiff_t from, ptrdiff_t count) {
    return from + SPAN < count ? from + SPAN : count;
}

/* The greatest of each span, NaN left out; returns that of all. `nan`: whether there is one. */
ISA_FN static float greatest_of_spans(const choice_job *job, float *greatest, int *nan) {
    float most = LOWEST;
    vec_int odd = {0};
    for (ptrdiff_t from = 0; from < job->size; from += SPAN) {
        ptrdiff_t end = span_end(from, job->size);
        v16 best = v_set1(LOWEST);
        for (ptrdiff_t i = from; i < end; i += 16) {
            v16 x = v_load_first(job->logits + i, end - i);
            EACH_PART(p) {
                best.part[p] = vec_max(x.part[p], best.part[p]);
                odd |= (vec_int)(x.part[p] != x.part[p]);
            }
        }
        float of_span = greatest[from / SPAN] = v_greatest(best);
        most = of_span > most ? of_span : most;
    }
    *nan = vec_any(odd);
    return most;
}

/* The first NaN, or else the first among the greatest. */
ISA_FN static int first_greatest(const choice_job *job, const float *greatest, float most,
                                 int nan) {
    const float *x = job->logits;
    if (nan)
        for (int i = 0; i < job->size; i++)
            if (x[i] != x[i]) return i;
    int span = 0;
    while (greatest[span] != most) span++;
    for (int i = span * SPAN; i < job->size; i++)
        if (x[i] == most) return i;
    return 0;
}

/* Logits from `low` up to `high` and their ids; returns how many. */
ISA_FN static ptrdiff_t collect(const choice_job *job, const float *greatest, float low, float high,
                                float *values, int *ids) {
    const float *x = job->logits;
    ptrdiff_t found = 0;
    vec least = vec_set1(low), most = vec_set1(high);
    for (ptrdiff_t from = 0; from < job->size; from += SPAN) {
        if (greatest[from / SPAN] < low) continue;
        ptrdiff_t end = span_end(from, job->size);
        for (ptrdiff_t i = from; i < end; i += 16) {
            v16 all = v_load_first(x + i, end - i);
            vec_int some = {0};
            EACH_PART(p)
                some |= (vec_int)(all.part[p] >= least) & (vec_int)(all.part[p] <= most);
            if (!vec_any(some)) continue;
            for (ptrdiff_t j = i; j < i + 16 && j < end; j++)
                if (x[j] >= low && x[j] <= high) {
                    values[found] = x[j];
                    ids[found++] = (int)j;
                }
        }
    }
    return found;
}

/* Weights of all candidates, and their sum. */
ISA_FN static double weigh_all(const candidates *c, float greatest, float per_degree) {
    double total = 0;
    for (ptrdiff_t from = 0; from < c->count; from += SPAN) {
        ptrdiff_t end = span_end(from, c->count);
        v16 sum = v_zero();
        for (ptrdiff_t i = from; i < end; i += 16) {
            v16 w = v_weight_of(v_load_first(c->logits + i, end - i), greatest, per_degree);
            sum = v_add(sum, w);
            if (end - i >= 16) v_store(c->weights + i, w);
            else v_store_some(c->weights + i, w, (int)(end - i));
        }
        total += v_total(sum);
    }
    return total;
}

/* out[j] += weights of logits above cuts[j] in one span. */
ISA_FN static void weights_above(const float *x, const float *weights, ptrdiff_t count,
                                 const float *cuts, double *out) {
    v16 sums[CUTS];
    UNROLL for (int j = 0; j < CUTS; j++) sums[j] = v_zero();
    for (ptrdiff_t i = 0; i < count; i += 16) {
        v16 all = v_load_first(x + i, count - i);
        v16 w = count - i >= 16 ? v_load(weights + i) : v_load_some(weights + i, (int)(count - i));
        UNROLL for (int j = 0; j < CUTS; j++) {
            vec cut = vec_set1(cuts[j]);
            EACH_PART(p) {
                vec_int above = (vec_int)(all.part[p] > cut);
                sums[j].part[p] =
                    vec_add(sums[j].part[p], (vec)((vec_int)w.part[p] & above));
            }
        }
    }
    UNROLL for (int j = 0; j < CUTS; j++) out[j] += v_total(sums[j]);
}

/* Where the least logit lies whose greater ones weigh less than some goal: those above `low` weigh
 * `over_low`, which is too much, those above `high` `over_high`, which is not. */
typedef struct {
    float low, high;
    double over_low, over_high;
} bracket;

ISA_FN static void narrow(const candidates *c, const float *greatest, double goal, bracket *at) {
    float cuts[CUTS];
    double sums[CUTS] = {0};
    for (int j = 0; j < CUTS; j++)
        cuts[j] = (float)(at->low + ((double)at->high - at->low) * (j + 1) / (CUTS + 1));
    for (ptrdiff_t from = 0; from < c->count; from += SPAN)
        if (greatest[from / SPAN] > cuts[0])
            weights_above(c->logits + from, c->weights + from, span_end(from, c->count) - from,
                          cuts, sums);
    for (int j = CUTS - 1; j >= 0; j--) {
        if (sums[j] >= goal) {
            at->low = cuts[j], at->over_low = sums[j];
            return;
        }
        at->high = cuts[j], at->over_high = sums[j];
    }
}

/* The least logit that top-p keeps among all tokens, whose weights are `total`. */
ISA_FN static float least_of_all(const choice_job *job, const candidates *c, const float *greatest,
                                 float most, double total) {
    double goal = job->top_p * total;
    /* tokens below `low` weigh less than half of what top-p leaves out, all of them together */
    double far = job->temperature * most_log(2.0 * job->size / (1.0 - job->top_p));
    bracket at = {(float)(most - far), most, total, 0};
    for (int i = 0; i < MOST_CUTTINGS && at.over_low - at.over_high > total / FEW; i++)
        narrow(c, greatest, goal, &at);
    float *values = c->spare, *weights = values + c->count;
    int *ids = (int *)(weights + c->count);
    ptrdiff_t found = collect(job, greatest, at.low, at.high, values, ids);
    for (ptrdiff_t i = 0; i < found; i++) weights[i] = c->weights[ids[i]];
    return found ? least_kept(values, weights, found, goal - at.over_high) : at.high;
}

/* What the candidates weigh that equal the least one and stand beyond the top_k greatest. */
static double surplus(const candidates *c, float top_k) {
    ptrdiff_t least = 0;
    for (ptrdiff_t i = 1; i < c->count; i++)
        if (c->logits[i] < c->logits[least]) least = i;
    return (double)(c->count - (ptrdiff_t)top_k) * c->weights[least];
}

static float least_of_few(const candidates *c, double goal) {
    float *values = c->spare, *weights = values + c->count;
    for (ptrdiff_t i = 0; i < c->count; i++) values[i] = c->logits[i], weights[i] = c->weights[i];
    return least_kept(values, weights, c->count, goal);
}

/* The top_k greatest, and those that equal the last one; returns how many. */
ISA_FN static ptrdiff_t greatest_few(const choice_job *job, const float *greatest, float *values,
                                     int *ids, float *spare) {
    ptrdiff_t spans = round_up(job->size, SPAN) / SPAN, wanted = (ptrdiff_t)job->top_k, kept = 0;
    float *ones = spare + job->size, least = -__builtin_inff();
    if (wanted <= spans) { /* so many logits reach the last of the greatest maxima */
        for (ptrdiff_t i = 0; i < spans; i++) spare[i] = greatest[i], ones[i] = 1.0f;
        least = least_kept(spare, ones, spans, (double)wanted);
    }
    ptrdiff_t found = collect(job, greatest, least, __builtin_inff(), values, ids);
    for (ptrdiff_t i = 0; i < found; i++) spare[i] = values[i], ones[i] = 1.0f;
    least = least_kept(spare, ones, found, (double)wanted);
    for (ptrdiff_t i = 0; i < found; i++)
        if (values[i] >= least) values[kept] = values[i], ids[kept++] = ids[i];
    return kept;
}

/* Lets go of weights of logits below `least` and of those below `min_p`. */
ISA_FN static void drop(const candidates *c, float least, float min_p) {
    vec low = vec_set1(least), little = vec_set1(min_p);
    for (ptrdiff_t i = 0; i < c->count; i += 16) {
        int count = c->count - i < 16 ? (int)(c->count - i) : 16;
        v16 x = v_load_first(c->logits + i, count), w = v_load_some(c->weights + i, count);
        EACH_PART(p) {
            vec_int kept = (vec_int)(x.part[p] >= low) & (vec_int)(w.part[p] >= little);
            w.part[p] = (vec)((vec_int)w.part[p] & kept);
        }
        v_store_some(c->weights + i, w, count);
    }
}

/* A token by its weight: a span by the first word of the key, a token in it by the second. */
ISA_FN static int drawn(const choice_job *job, const candidates *c, float *of_spans) {
    int spans = (int)(round_up(job->size, SPAN) / SPAN);
    if (!c->ids) {
        for (int s = 0; s < spans; s++) {
            ptrdiff_t from = (ptrdiff_t)s * SPAN, end = span_end(from, c->count);
            v16 sum = v_zero();
            for (ptrdiff_t i = from; i < end; i += 16)
                sum = v_add(sum, v_load_some(c->weights + i, end - i < 16 ? (int)(end - i) : 16));
            of_spans[s] = v_total(sum);
        }
        int at = drawn_from(of_spans, spans, job->key[0]) * SPAN;
        int end = (int)span_end(at, c->count);
        return at + drawn_from(c->weights + at, end - at, job->key[1]);
    }
    for (int s = 0; s < spans; s++) of_spans[s] = 0;
    for (ptrdiff_t i = 0; i < c->count; i++) of_spans[c->ids[i] / SPAN] += c->weights[i];
    int span = drawn_from(of_spans, spans, job->key[0]);
    ptrdiff_t from = 0, end;
    while (c->ids[from] / SPAN < span) from++;
    for (end = from; end < c->count && c->ids[end] / SPAN == span;) end++;
    return c->ids[from + drawn_from(c->weights + from, (int)(end - from), job->key[1])];
}

ISA_FN static int choose(const choice_job *job) {
    ptrdiff_t size = job->size, room = round_up(size, 16);
    float *greatest = scratch_for(SCRATCH_CHOICE, (size_t)(7 * room));
    float *values = greatest + room, *weights = values + room, *spare = weights + room;
    int *ids = (int *)(spare + 3 * room), nan;
    float most = greatest_of_spans(job, greatest, &nan);
    if (job->temperature == 0 || nan || most == LOWEST || most == -LOWEST)
        return first_greatest(job, greatest, most, nan);
    float per_degree = job->temperature < 1e-30f ? 1e30f : 1.0f / job->temperature, least = LOWEST;
    candidates c = {job->logits, NULL, weights, spare, size};
    if (job->top_k >= 1 && job->top_k < (float)size)
        c = (candidates){values, ids, weights, spare,
                         greatest_few(job, greatest, values, ids, spare)};
    double total = weigh_all(&c, most, per_degree);
    if (job->top_p < 1 && c.ids) /* of equals at the end only as many count as top_k wants */
        least = least_of_few(&c, job->top_p * (total - surplus(&c, job->top_k)));
    else if (job->top_p < 1) least = least_of_all(job, &c, greatest, most, total);
    if (job->top_p < 1 || job->min_p > 0) drop(&c, least, job->min_p);
    return drawn(job, &c, greatest);
}
