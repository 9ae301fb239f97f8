// What DFlash 2 adds to a block's rows and to the choice of its tokens.
#pragma once

#include <vector>

#include "arrays.h"

namespace dflash {

// Causal convolutions along blocks: rows x [B, q, H], base kernels [sides, taps, H] and the rows'
// own ones [B, q, sides, taps, G], both of one `side` -> [B, q, H].
mx::array convolve(const mx::array& x, const mx::array& base, const mx::array& own, int side);

// Numbers [..., n] -> the `count` greatest [..., count], the greatest first, and their places int32.
std::vector<mx::array> top(const mx::array& x, int count);

// A slot's candidates: their ids [B, q, C] int32 and logits [B, q, C].
struct Candidates {
  mx::array ids;
  mx::array logits;
};

// By what candidates are rescored: gates [B, q, r] of slots, tables [V, r] of tokens.
struct Rescoring {
  mx::array gates;
  mx::array predecessors;
  mx::array successors;
};

// Tokens [B, q] int32 chosen left to right behind anchors [B] int32, and the scores [B, q, C].
std::vector<mx::array> walk(const mx::array& anchors, const Candidates& candidates,
                            const Rescoring& rescoring);

}  // namespace dflash
