/* All functions of an instruction set, in the order in which they build on each other, and their
 * places in its table. Included once per instruction set, after its vectors. */

#include "dot.inc.h"
#include "seq.inc.h"
#include "qmm.inc.h"
#include "tall.inc.h"
#include "exp.inc.h"
#include "elementwise.inc.h"
#include "rows.inc.h"
#include "attention.inc.h"
#include "choice.inc.h"
#include "drafting.inc.h"
#include "grads.inc.h"
#include "blocks.inc.h"

#define ISA_FUNCTIONS                                                                         \
    .dot = dot_gemm, .seq = seq_gemm, .tall = &tall, .attend = attend_tile, .choose = choose, \
    .gated = gated, .norm_rows = norm_rows, .rotate_rows = rotate_rows,                       \
    .argmax_rows = argmax_rows, .unpack_rows = unpack_rows, .convolve_rows = convolve_rows,   \
    .top_rows = top_rows, .walk_rows = walk_rows,                                             \
    .swiglu_grad = swiglu_grad, .norm_rows_grad = norm_rows_grad,                             \
    .rotate_rows_grad = rotate_rows_grad, .convolve_rows_grad = convolve_rows_grad,           \
    .entropy_rows = entropy_rows,                                                             \
    .entropy_rows_grad = entropy_rows_grad, .adamw = adamw_range, .square_sums = square_sums, \
    .attend_blocks = attend_blocks, .attend_blocks_grad = attend_blocks_grad
