/* x W^T with a quantised W: a panel of its rows at a time becomes float32 and is multiplied as any
 * matrix, which gives every element the bits that it has with all of W expanded. */
#include "blas.h"

#define FEW_ROWS 32               /* of x: a panel stays in the second-level cache */
#define FEW_FLOATS (48 * 1024)
#define MANY_FLOATS (256 * 1024)  /* more rows read a panel often, and packing them costs more */
#define COLUMN_STEP 16
#define ROWS_OF_UNPACKING 8       /* what it costs to unpack W, in rows of x */
#define WORK_PER_PART (1 << 19)
#define PARTS_PER_THREAD 4
#define PADDING 16                /* floats: rows of a power of two share too few cache lines */

typedef struct {
    const dflash_quantised *w;
    const float *x;
    float *out;
    int rows, panel, panels, parts;
} product;

static void run_panel(const product *p, int panel, float *scratch, ptrdiff_t ld) {
    const dflash_quantised *w = p->w;
    int from = panel * p->panel, left = w->N - from;
    gemm_job job = {.M = p->rows, .N = left < p->panel ? left : p->panel, .K = w->K,
                    .a = p->x, .a_row = w->K, .a_col = 1, .b = scratch, .ldb = ld,
                    .c = p->out + from, .ldc = w->N, .alpha = 1.0f, .beta = 0.0f};
    isa_in_use()->unpack_rows(w, from, job.N, scratch, ld);
    dot_alone(&job);
}

static void run_part(void *context, int index) {
    const product *p = context;
    ptrdiff_t ld = p->w->K + PADDING;
    float *scratch = scratch_for(SCRATCH_PANEL, (size_t)(p->panel * ld));
    int last = tile_start(p->panels, p->parts, index + 1);
    for (int i = tile_start(p->panels, p->parts, index); i < last; i++)
        run_panel(p, i, scratch, ld);
}

static int panel_columns(const dflash_quantised *w, int rows) {
    int floats = rows <= FEW_ROWS ? FEW_FLOATS : MANY_FLOATS;
    int columns = floats / (w->K + PADDING) / COLUMN_STEP * COLUMN_STEP;
    return columns < COLUMN_STEP ? COLUMN_STEP : columns < w->N ? columns : w->N;
}

EXPORT void dflash_quantised_product(const dflash_quantised *w, const float *x, int rows,
                                     float *out) {
    product p = {.w = w, .x = x, .out = out, .rows = rows, .panel = panel_columns(w, rows)};
    p.panels = tile_count(w->N, p.panel);
    long long work = (long long)(rows + ROWS_OF_UNPACKING) * w->N * w->K / WORK_PER_PART;
    int most = threads_in_use() * PARTS_PER_THREAD;
    if (most > p.panels) most = p.panels;
    p.parts = threads_in_use() == 1 || work < 2 ? 1 : work < most ? (int)work : most;
    if (p.parts == 1) run_part(&p, 0);
    else pool_run(p.parts, run_part, &p);
}
