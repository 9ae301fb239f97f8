/* Attention of ragged rows over their own caches: writes, pieces of rings, and tiles on threads. */
#include "blas.h"

#define TILE 48               /* queries at a time: their scores stay in the second-level cache */
#define LEAST_WORK (1 << 22) /* multiply-adds below which waking a thread costs more */

typedef struct {
    const dflash_attention *job;
    int tiles; /* of all rows and key heads */
} tiling;

static int tiles_of(const dflash_attention *t, const attend_row *row) {
    return tile_count((row->last - row->first) * (t->heads / t->kv_heads), TILE);
}

static void run_tile(void *context, int index) {
    const dflash_attention *t = ((const tiling *)context)->job;
    for (int r = 0; r < t->rows; r++) {
        const attend_row *row = t->row + r;
        int tiles = tiles_of(t, row), all = tiles * t->kv_heads;
        if (index >= all) {
            index -= all;
            continue;
        }
        int queries = (row->last - row->first) * (t->heads / t->kv_heads), tile = index % tiles;
        int from = tile_start(queries, tiles, tile), to = tile_start(queries, tiles, tile + 1);
        isa_in_use()->attend(t, row, index / tiles, from, to - from);
        return;
    }
}

static void copy(float *to, const float *from, int count, ptrdiff_t stride) {
    for (int l = 0; l < count; l++) to[l] = from[l * stride];
}

static void write_column(const dflash_attention *t, const attend_row *row, int column) {
    int position = row->start + column, place = row->ring ? position % row->capacity : position;
    for (int head = 0; head < t->kv_heads; head++) {
        ptrdiff_t to = ((ptrdiff_t)head * row->capacity + place) * t->dim;
        copy(row->keys + to, row->new_keys + head * t->k_head + column * t->k_column, t->dim,
             t->k_dim);
        copy(row->values + to, row->new_values + head * t->v_head + column * t->v_column, t->dim,
             t->v_dim);
    }
}

static void zero_missing(const dflash_attention *t, const attend_row *row) {
    ptrdiff_t each = (ptrdiff_t)t->heads * t->dim;
    for (ptrdiff_t i = row->length * each; i < t->columns * each; i++) row->out[i] = 0.0f;
}

/* The next columns of every row; returns how many tiles they are, 0 when none is left. */
static int next_pieces(const dflash_attention *t) {
    int tiles = 0;
    for (int r = 0; r < t->rows; r++) {
        attend_row *row = t->row + r;
        int most = row->ring && t->writes ? t->spare : row->length;
        row->first = row->last;
        row->last = row->length - row->first > most ? row->first + most : row->length;
        for (int c = row->first; t->writes && c < row->last; c++) write_column(t, row, c);
        tiles += tiles_of(t, row) * t->kv_heads;
    }
    return tiles;
}

static long long work_of(const dflash_attention *t) {
    long long work = 0;
    for (int r = 0; r < t->rows; r++)
        work += (long long)(t->row[r].last - t->row[r].first) * (t->row[r].start + t->row[r].last);
    return work * t->heads * t->dim * 2;
}

EXPORT void dflash_attend(const dflash_attention *t) {
    for (int r = 0; r < t->rows; r++) {
        t->row[r].first = t->row[r].last = 0;
        zero_missing(t, t->row + r);
    }
    for (int tiles; (tiles = next_pieces(t)) > 0;) {
        tiling all = {t, tiles};
        if (threads_in_use() > 1 && tiles > 1 && work_of(t) >= LEAST_WORK) {
            pool_run(tiles, run_tile, &all);
            continue;
        }
        for (int i = 0; i < tiles; i++) run_tile(&all, i);
    }
}

EXPORT void dflash_write(const dflash_attention *t) {
    for (int r = 0; r < t->rows; r++)
        for (int c = 0; c < t->row[r].length; c++) write_column(t, t->row + r, c);
}
