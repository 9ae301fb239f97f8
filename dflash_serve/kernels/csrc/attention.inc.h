/* Attention of a tile of queries over one head of one row's cache: scores by `dot`, weights by one
 * softmax per query, their sum with the values by `seq`. A query's bits depend on what it sees and
 * on the places of that alone: not on its tile, on other rows, or on keys that it does not see, as
 * long as their values are finite: they count with a weight of 0.
 * Included once per instruction set, after dot, seq and exp. */

#define HIDDEN (-__builtin_inff())

ISA_FN INLINE vec vec_max(vec a, vec b) {
    vec_int greater = (vec_int)(a > b);
    return (vec)(((vec_int)a & greater) | ((vec_int)b & ~greater));
}

ISA_FN static float greatest(const float *s, int count, float at_least) {
    v16 most = v_set1(at_least);
    int whole = count / 16 * 16;
    for (int i = 0; i < whole; i += 16) {
        v16 x = v_load(s + i);
        EACH_PART(p) most.part[p] = vec_max(x.part[p], most.part[p]);
    }
    float lanes[16], all = at_least;
    v_store(lanes, most);
    for (int l = 0; l < 16; l++) all = lanes[l] > all ? lanes[l] : all;
    for (int i = whole; i < count; i++) all = s[i] > all ? s[i] : all;
    return all;
}

/* s = e^(s - most); returns the sum of these, lane l of it over the places l modulo 16. */
ISA_FN static float exponentials(float *s, int count, float most) {
    v16 sum = v_zero(), shift = v_set1(-most);
    int whole = count / 16 * 16, rest = count - whole;
    for (int i = 0; i < whole; i += 16) {
        v16 e = v_exp(v_add(v_load(s + i), shift));
        sum = v_add(sum, e);
        v_store(s + i, e);
    }
    if (rest) {
        float last[16];
        for (int l = 0; l < 16; l++) last[l] = l < rest ? s[whole + l] : HIDDEN;
        v16 e = v_exp(v_add(v_load(last), shift));
        sum = v_add(sum, e);
        v_store_some(s + whole, e, rest);
    }
    float total;
    v_reduce(&sum, &total, 1);
    return total;
}

static inline void hide(float *s, int from, int to) {
    for (int i = from; i < to; i++) s[i] = HIDDEN;
}

/* Hides all places [0, n) but those of positions [low, high). */
static inline void show_only(const attend_row *row, float *s, int n, int low, int high) {
    if (!row->ring || n < row->capacity) {
        hide(s, 0, low < n ? low : n);
        hide(s, high, n);
        return;
    }
    if (high - low >= row->capacity) return;
    int from = low % row->capacity, to = high % row->capacity;
    if (from < to) {
        hide(s, 0, from);
        hide(s, to, n);
    } else {
        hide(s, to, from);
    }
}

/* The scores of this forward's columns that stand as a tree: into the order of positions. */
ISA_FN static void into_line(const dflash_attention *t, const int *line, int depth, float *tail) {
    float by_place[ATTEND_MOST_COLUMNS];
    for (int j = 0; j < t->columns; j++) by_place[j] = tail[j];
    for (int j = 0; j < t->columns; j++) tail[j] = j <= depth ? by_place[line[j]] : HIDDEN;
}

/* And the weights back, to the places of their values. */
ISA_FN static void out_of_line(const dflash_attention *t, const int *line, int depth, float *tail) {
    float by_position[ATTEND_MOST_COLUMNS];
    for (int j = 0; j <= depth; j++) by_position[j] = tail[j];
    for (int j = 0; j < t->columns; j++) tail[j] = 0.0f;
    for (int j = 0; j <= depth; j++) tail[line[j]] = by_position[j];
}

ISA_FN static void mask_across(const dflash_attention *t, const attend_row *row, int column,
                               float *tail) {
    const unsigned char *sees = row->sees + (ptrdiff_t)column * t->columns;
    int depth = row->depths[column];
    for (int j = 0; j < t->columns; j++) {
        int behind = depth - row->depths[j];
        if (!sees[j] || (t->causal && behind < 0) || (t->window && behind >= t->window))
            tail[j] = HIDDEN;
    }
}

/* Scores of the query in `column` over places [0, n) -> weights before their division, whose sum
 * is returned. */
ISA_FN static float weigh(const dflash_attention *t, const attend_row *row, int column, int n,
                          float sink, float *s) {
    int depth = row->depths ? row->depths[column] : column;
    int position = row->start + depth, place = row->ring ? row->start % row->capacity : row->start;
    int high = row->depths ? row->start : t->causal ? position + 1 : row->start + row->length;
    int low = t->window && position >= t->window ? position - t->window + 1 : 0;
    const int *line = row->lines ? row->lines + (ptrdiff_t)column * t->levels : NULL;
    float own[ATTEND_MOST_COLUMNS];
    if (row->depths) {
        if (line) into_line(t, line, depth, s + place);
        else mask_across(t, row, column, s + place);
        for (int j = 0; j < t->columns; j++) own[j] = s[place + j];
        if (line && t->window)
            for (int j = 0; j <= depth - t->window; j++) own[j] = HIDDEN;
    }
    show_only(row, s, n, low < high ? low : high, high);
    if (row->depths)
        for (int j = 0; j < t->columns; j++) s[place + j] = own[j];
    int last = row->ring || row->depths ? n : high < n ? high : n;
    float most = greatest(s, last, sink);
    float total = exponentials(s, last, most);
    for (int i = last; i < n; i++) s[i] = 0.0f;
    if (line) out_of_line(t, line, depth, s + place);
    if (sink == HIDDEN) return total;
    float of_sink[16] = {sink};
    exponentials(of_sink, 1, most);
    return total + of_sink[0];
}

/* Queries [from, from + count) of one row and key head: number i is column i / group of the piece,
 * head i % group of the group. */
ISA_FN static void attend_tile(const dflash_attention *t, const attend_row *row, int kv, int from,
                               int count) {
    int group = t->heads / t->kv_heads, dim = t->dim;
    int end = row->start + row->last; /* positions below it are written */
    if (t->causal && !row->depths) end = row->start + row->first + (from + count - 1) / group + 1;
    int n = row->ring && end > row->capacity ? row->capacity : end;
    if (row->ring && row->start + row->last > row->capacity) n = row->capacity;
    ptrdiff_t ld = round_up(n, 16), head = (ptrdiff_t)kv * row->capacity * dim;
    float *scores = scratch_for(SCRATCH_ATTENTION, (size_t)count * (ld + 2 * dim + 1));
    float *x = scores + count * ld, *out = x + (ptrdiff_t)count * dim, *sums = out + count * dim;
    for (int i = 0; i < count; i++) {
        int column = row->first + (from + i) / group, at = kv * group + (from + i) % group;
        const float *q = row->queries + at * t->q_head + column * t->q_column;
        for (int l = 0; l < dim; l++) x[(ptrdiff_t)i * dim + l] = q[l * t->q_dim];
    }
    gemm_job scored = {.M = count, .N = n, .K = dim, .a = x, .a_row = dim, .a_col = 1,
                       .b = row->keys + head, .ldb = dim, .c = scores, .ldc = ld,
                       .alpha = t->scale, .beta = 0.0f};
    dot_gemm(&scored);
    for (int i = 0; i < count; i++) {
        int column = row->first + (from + i) / group, at = kv * group + (from + i) % group;
        sums[i] = weigh(t, row, column, n, t->sinks ? t->sinks[at] : HIDDEN, scores + i * ld);
    }
    gemm_job summed = {.M = count, .N = dim, .K = n, .a = scores, .a_row = ld, .a_col = 1,
                       .b = row->values + head, .ldb = dim, .c = out, .ldc = dim,
                       .alpha = 1.0f, .beta = 0.0f};
    seq_gemm(&summed);
    for (int i = 0; i < count; i++) {
        int column = row->first + (from + i) / group, at = kv * group + (from + i) % group;
        float *to = row->out + ((ptrdiff_t)column * t->heads + at) * dim, scale = 1.0f / sums[i];
        for (int l = 0; l < dim; l++) to[l] = out[(ptrdiff_t)i * dim + l] * scale;
    }
}
