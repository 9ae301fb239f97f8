/* The product of many rows: packs A once for all threads, then hands out panels of columns. */
#include "blas.h"

#define PACKED_FLOATS (2 * 1024 * 1024) /* of A at a time, which stay in the last-level cache */
#define MOST_DEPTH 2048 /* k per block: a panel of B and a tile of A stay in the second level */

typedef struct {
    tall_job job;
    const tall_isa *isa;
    int panels, panel_parts, tile_parts;
} tall_work;

static void pack_part(void *context, int index) {
    const tall_work *w = context;
    int parts = w->panel_parts * w->tile_parts, to = tile_start(w->job.tiles, parts, index + 1);
    for (int tile = tile_start(w->job.tiles, parts, index); tile < to; tile++)
        w->isa->pack(&w->job, tile);
}

static void panel_part(void *context, int index) {
    const tall_work *w = context;
    int column = index / w->tile_parts, row = index % w->tile_parts;
    int from = tile_start(w->job.tiles, w->tile_parts, row);
    int to = tile_start(w->job.tiles, w->tile_parts, row + 1);
    int last = tile_start(w->panels, w->panel_parts, column + 1);
    for (int panel = tile_start(w->panels, w->panel_parts, column); panel < last; panel++)
        w->isa->panel(&w->job, panel, from, to);
}

static void run_parts(tall_work *w, void (*part)(void *, int)) {
    pool_run(w->panel_parts * w->tile_parts, part, w);
}

void tall_gemm(const tall_isa *isa, const gemm_job *job, int lanes, int parts) {
    tall_work w = {.isa = isa, .panels = tile_count(job->N, isa->columns)};
    int depth = (int)round_up(tile_count(job->K, tile_count(job->K, MOST_DEPTH)), 16);
    w.job = (tall_job){.job = job, .lanes = lanes, .depth = depth,
                       .blocks = tile_count(job->K, depth)};
    ptrdiff_t tile_floats = w.job.blocks * tall_block(depth, isa->a_width);
    int most = PACKED_FLOATS / tile_floats > 1 ? (int)(PACKED_FLOATS / tile_floats) : 1;
    int row_blocks = tile_count(tile_count(job->M, isa->rows), most);
    for (int i = 0; i < row_blocks; i++) {
        w.job.row = tile_start(job->M, row_blocks, i);
        w.job.rows = tile_start(job->M, row_blocks, i + 1) - w.job.row;
        w.job.tiles = tile_count(w.job.rows, isa->rows);
        w.job.packed = scratch_for(SCRATCH_PACKED, (size_t)(w.job.tiles * tile_floats));
        /* Panels go to threads first: one that several parts share is packed by each of them. */
        w.panel_parts = least(w.panels, parts);
        w.tile_parts = least(tile_count(parts, w.panel_parts), w.job.tiles);
        run_parts(&w, pack_part);
        run_parts(&w, panel_part);
    }
}
